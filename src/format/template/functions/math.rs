//! sprig's functions of whole numbers and of floats.

use super::{Function, MANY, MAX_ELEMENTS, float, int, list, made, text};
use crate::value::Value;

pub const FUNCTIONS: &[Function] = &[
    Function::new("add", (0, MANY), |args| {
        Ok(Value::Int(args.iter().fold(0, |sum, arg| i64::wrapping_add(sum, int(arg)))))
    }),
    Function::new("add1", (1, 1), |args| Ok(Value::Int(int(&args[0]).wrapping_add(1)))),
    Function::new("sub", (2, 2), |args| Ok(Value::Int(int(&args[0]).wrapping_sub(int(&args[1]))))),
    Function::new("mul", (1, MANY), |args| {
        Ok(Value::Int(args.iter().fold(1, |product, arg| i64::wrapping_mul(product, int(arg)))))
    }),
    Function::new("div", (2, 2), |args| {
        int(&args[0]).checked_div(int(&args[1])).map(Value::Int).ok_or_else(|| "integer divide by zero".to_owned())
    }),
    Function::new("mod", (2, 2), |args| {
        int(&args[0]).checked_rem(int(&args[1])).map(Value::Int).ok_or_else(|| "integer divide by zero".to_owned())
    }),
    Function::new("max", (1, MANY), |args| Ok(Value::Int(args.iter().map(int).max().unwrap_or(0)))),
    Function::new("biggest", (1, MANY), |args| Ok(Value::Int(args.iter().map(int).max().unwrap_or(0)))),
    Function::new("min", (1, MANY), |args| Ok(Value::Int(args.iter().map(int).min().unwrap_or(0)))),
    Function::new("addf", (0, MANY), |args| Ok(Value::Float(args.iter().map(float).sum()))),
    Function::new("add1f", (1, 1), |args| Ok(Value::Float(float(&args[0]) + 1.0))),
    Function::new("subf", (1, MANY), |args| {
        Ok(Value::Float(args[1..].iter().fold(float(&args[0]), |rest, arg| rest - float(arg))))
    }),
    Function::new("mulf", (1, MANY), |args| Ok(Value::Float(args.iter().map(float).product()))),
    Function::new("divf", (1, MANY), |args| {
        Ok(Value::Float(args[1..].iter().fold(float(&args[0]), |rest, arg| rest / float(arg))))
    }),
    Function::new("maxf", (1, MANY), |args| Ok(Value::Float(args.iter().map(float).fold(f64::NEG_INFINITY, f64::max)))),
    Function::new("minf", (1, MANY), |args| Ok(Value::Float(args.iter().map(float).fold(f64::INFINITY, f64::min)))),
    Function::new("floor", (1, 1), |args| Ok(Value::Float(float(&args[0]).floor()))),
    Function::new("ceil", (1, 1), |args| Ok(Value::Float(float(&args[0]).ceil()))),
    Function::new("round", (2, 3), |args| {
        let places = int(&args[1]).clamp(-300, 300) as i32;
        let on = args.get(2).map_or(0.5, float);
        let power = 10f64.powi(places);
        let digit = power * float(&args[0]);
        let rounded = if digit.fract().abs() >= on { digit.signum() * digit.abs().ceil() } else { digit.trunc() };
        Ok(Value::Float(rounded / power))
    }),
    Function::new("int", (1, 1), |args| Ok(Value::Int(int(&args[0])))),
    Function::new("int64", (1, 1), |args| Ok(Value::Int(int(&args[0])))),
    Function::new("float64", (1, 1), |args| Ok(Value::Float(float(&args[0])))),
    Function::new("atoi", (1, 1), |args| Ok(Value::Int(text(&args[0]).parse().unwrap_or(0)))),
    Function::new("toDecimal", (1, 1), |args| Ok(Value::Int(i64::from_str_radix(&text(&args[0]), 8).unwrap_or(0)))),
    Function::new("until", (1, 1), |args| {
        let end = int(&args[0]);
        steps(0, end, if end < 0 { -1 } else { 1 })
    }),
    Function::new("untilStep", (3, 3), |args| steps(int(&args[0]), int(&args[1]), int(&args[2]))),
    Function::new("seq", (0, 3), |args| {
        let (start, step, end) = match args {
            [] => return made(""),
            [end] => (1, if int(end) < 1 { -1 } else { 1 }, int(end)),
            [start, end] => (int(start), if int(end) < int(start) { -1 } else { 1 }, int(end)),
            [start, step, end, ..] => (int(start), int(step), int(end)),
        };
        // The end is inclusive.
        let Value::Array(numbers) = steps(start, end.saturating_add(step.signum()), step)? else { return made("") };
        made(numbers.iter().map(text).collect::<Vec<_>>().join(" "))
    }),
];

fn steps(start: i64, end: i64, step: i64) -> Result<Value, String> {
    if step == 0 || (step > 0) != (end > start) {
        return list([]);
    }
    let next = |at: &i64| at.checked_add(step).filter(|at| if step > 0 { *at < end } else { *at > end });
    list(std::iter::successors((start != end).then_some(start), next).take(MAX_ELEMENTS + 1).map(Value::Int))
}
