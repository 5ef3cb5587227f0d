//! sprig's random functions. Their results are not secret, so they are not suitable for keys.

use super::{Function, MAX_TEXT, int, made, size, text};
use crate::value::Value;

pub const FUNCTIONS: &[Function] = &[
    Function::new("randAlpha", (1, 1), |args| drawn(&args[0], fastrand::alphabetic)),
    Function::new("randAlphaNum", (1, 1), |args| drawn(&args[0], fastrand::alphanumeric)),
    Function::new("randNumeric", (1, 1), |args| drawn(&args[0], || fastrand::digit(10))),
    Function::new("randAscii", (1, 1), |args| drawn(&args[0], || fastrand::char(' '..='~'))),
    Function::new("randInt", (2, 2), |args| {
        let (least, end) = (int(&args[0]), int(&args[1]));
        if least >= end {
            return Err(format!("there is no number from {least} to below {end}"));
        }
        Ok(Value::Int(fastrand::i64(least..end)))
    }),
    Function::new("shuffle", (1, 1), |args| {
        let mut letters: Vec<char> = text(&args[0]).chars().collect();
        fastrand::shuffle(&mut letters);
        made(letters.into_iter().collect::<String>())
    }),
    Function::new("uuidv4", (0, 0), |_| {
        let bytes = fastrand::u128(..).to_be_bytes();
        made(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
    }),
];

fn drawn(count: &Value, draw: impl Fn() -> char) -> Result<Value, String> {
    made((0..size(count, MAX_TEXT)).map(|_| draw()).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::lookup;
    use super::*;

    #[test]
    fn each_draw_is_of_its_kind() {
        let call = |name: &str, args: &[Value]| lookup(name).expect("it is known").call(args);
        let drawn = |name| text(&call(name, &[Value::Int(40)]).unwrap());
        assert!(drawn("randAlpha").chars().all(|c| c.is_ascii_alphabetic()));
        assert!(drawn("randAlphaNum").chars().all(|c| c.is_ascii_alphanumeric()));
        assert!(drawn("randNumeric").chars().all(|c| c.is_ascii_digit()));
        assert!(drawn("randAscii").chars().all(|c| (' '..='~').contains(&c)));
        assert_eq!(drawn("randAscii").len(), 40);
        assert!((3..5).contains(&int(&call("randInt", &[Value::Int(3), Value::Int(5)]).unwrap())));
        assert!(call("randInt", &[Value::Int(3), Value::Int(3)]).is_err());
        assert_eq!(text(&call("shuffle", &[Value::from("aaa")]).unwrap()), "aaa");
        let uuid = text(&call("uuidv4", &[]).unwrap());
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    }
}
