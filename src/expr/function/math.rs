//! Functions of numbers.
//!
//! Whole numbers stay whole and exact if possible (`abs`, `ceil`, `floor`, `round`, `mod`); the other functions compute
//! with floats. Infinity and NaN follow IEEE 754; the encoding of the result decides how they are written.

use super::{Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, Nulls, Param, Returns, domain};
use crate::value::Value;
use crate::value::cast::{self, float, int};

/// The parameter of most functions here.
const X: &[(&str, Param)] = &[("x", Param::Number)];

/// A function of a number that returns a float.
const fn of_double(name: &'static str, code: super::ScalarFn) -> Function {
    Function::new(name, Family::Math, X, Returns::Float, Code::Scalar(code))
}

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Math, params, returns, Code::Scalar(code))
}

const TWO_INTS: &[(&str, Param)] = &[("a", Param::Int), ("b", Param::Int)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("abs", X, Returns::SameAs(0), abs).doc(
        "The absolute value. A whole number stays one.",
        &[("abs(-7)", "7"), ("abs(-2.5)", "2.5"), ("abs(-9007199254740993)", "9007199254740993")],
    ),
    of_double("acos", |args, _| Ok(in_unit(float(&args[0])?, f64::acos)))
        .doc("The arc cosine in radians; null outside of [-1, 1].", &[("acos(1)", "0"), ("acos(2)", "")]),
    of_double("asin", |args, _| Ok(in_unit(float(&args[0])?, f64::asin)))
        .doc("The arc sine in radians; null outside of [-1, 1].", &[("asin(0)", "0"), ("asin(-2)", "")]),
    of_double("atan", |args, _| double(float(&args[0])?.atan()))
        .doc("The arc tangent in radians.", &[("atan(1)", "0.7853981633974483")]),
    of("atan2", &[("y", Param::Number), ("x", Param::Number)], Returns::Float, |args, _| {
        double(float(&args[0])?.atan2(float(&args[1])?))
    })
    .doc("The angle of the point (x, y) in radians.", &[("atan2(1, 0)", "1.5707963267948966"), ("atan2(0, 0)", "0")]),
    of("bitand", TWO_INTS, Returns::Int, |args, _| Ok(Value::Int(operand(args, 0)? & operand(args, 1)?)))
        .doc("Bitwise AND of two whole numbers.", &[("bitand(12, 10)", "8"), ("bitand(-1, 255)", "255")]),
    of("bitnot", &[("a", Param::Int)], Returns::Int, |args, _| match int(&args[0]) {
        Ok(a) => Ok(Value::Int(!a)),
        Err(_) => Err(domain(format!("Expect int type for operand but got {}", cast::text(&args[0])))),
    })
    .doc("Bitwise NOT, in two's complement.", &[("bitnot(5)", "-6")]),
    of("bitor", TWO_INTS, Returns::Int, |args, _| Ok(Value::Int(operand(args, 0)? | operand(args, 1)?)))
        .doc("Bitwise OR of two whole numbers.", &[("bitor(12, 10)", "14")]),
    of("bitxor", TWO_INTS, Returns::Int, |args, _| Ok(Value::Int(operand(args, 0)? ^ operand(args, 1)?)))
        .doc("Bitwise XOR of two whole numbers.", &[("bitxor(12, 10)", "6")]),
    of("ceil", X, Returns::Any, |args, _| whole(&args[0], f64::ceil)).aliases(&["ceiling"]).doc(
        "x rounded up to a whole number.",
        &[("ceil(1.2)", "2"), ("ceiling(-1.2)", "-1"), ("ceil(9007199254740993)", "9007199254740993")],
    ),
    of(
        "conv",
        &[("value", Param::Any), ("from", Param::IntLiteral), ("to", Param::IntLiteral)],
        Returns::Text,
        conv,
    )
    .doc(
        "Converts a whole number from base `from` to base `to`, in upper case. Bases range from 2 to 36; others give \
         null. Reading stops at the first character that is not a digit. With a negative `to`, negative numbers are \
         written with a sign; otherwise they are written as unsigned 64-bit numbers. With a negative `from`, the \
         number stays within signed 64 bits.",
        &[
            ("conv(\"35\", 10, 36)", "\"Z\""),
            ("conv(\"ff\", 16, 2)", "\"11111111\""),
            ("conv(\"-1\", 10, 16)", "\"FFFFFFFFFFFFFFFF\""),
            ("conv(\"-255\", 10, -16)", "\"-FF\""),
            ("conv(5, 1, 10)", ""),
        ],
    ),
    of_double("cos", |args, _| double(float(&args[0])?.cos())).doc("The cosine of x radians.", &[("cos(0)", "1")]),
    of_double("cosh", |args, _| double(float(&args[0])?.cosh())).doc("The hyperbolic cosine.", &[("cosh(0)", "1")]),
    of_double("cot", cot)
        .doc("The cotangent of x radians; an error for 0.", &[("cot(0.5)", "1.830487721712452")]),
    of_double("degrees", |args, _| double(float(&args[0])? * (180.0 / std::f64::consts::PI)))
        .doc("Converts radians to degrees.", &[("degrees(0)", "0"), ("degrees(pi())", "180")]),
    of_double("exp", |args, _| double(float(&args[0])?.exp()))
        .doc("e to the power of x.", &[("exp(0)", "1"), ("exp(1)", "2.718281828459045")]),
    of("floor", X, Returns::Any, |args, _| whole(&args[0], f64::floor))
        .doc("x rounded down to a whole number.", &[("floor(1.8)", "1"), ("floor(-1.2)", "-2")]),
    of_double("ln", ln).doc("The natural logarithm; an error for negative numbers.", &[("ln(1)", "0")]),
    of("log", &[("a", Param::Number), ("b", Param::Number)], Returns::Float, log).required(1).check(log_count).doc(
        "`log(x)` is the logarithm to base 10, `log(base, x)` to another base. Null if x or the base is not positive, \
         or if the base is 1.",
        &[("log(100)", "2"), ("log(2, 8)", "3"), ("log(0)", ""), ("log(1, 10)", ""), ("log(0.5, 8)", "-3")],
    ),
    of("mod", &[("a", Param::Number), ("b", Param::Number)], Returns::Any, modulo).doc(
        "The remainder of a divided by b, with the sign of a. For b = 0 the result is NaN.",
        &[("mod(7, 3)", "1"), ("mod(-7, 3)", "-1"), ("mod(5.5, 2)", "1.5")],
    ),
    of("pi", &[], Returns::Float, |_, _| double(std::f64::consts::PI))
        .doc("The number π.", &[("pi()", "3.141592653589793")]),
    of("power", &[("x", Param::Number), ("y", Param::Number)], Returns::Float, |args, _| {
        double(float(&args[0])?.powf(float(&args[1])?))
    })
    .aliases(&["pow"])
    .doc("x to the power of y.", &[("power(2, 10)", "1024"), ("pow(9, 0.5)", "3"), ("power(0, 0)", "1")]),
    of_double("radians", |args, _| double(float(&args[0])? * (std::f64::consts::PI / 180.0)))
        .doc("Converts degrees to radians.", &[("radians(180)", "3.141592653589793")]),
    of("rand", &[], Returns::Float, |_, _| double(fastrand::f64()))
        .nulls(Nulls::Own)
        .not_deterministic()
        .doc("A random number from 0 (inclusive) to 1 (exclusive). Not suitable for secrets.", &[]),
    of("round", &[("x", Param::Number), ("places", Param::Number)], Returns::Any, round)
        .required(1)
        .check(round_count)
        .doc(
            "x rounded to a whole number, or to a number of decimal places; negative places round to tens, hundreds \
             and so on. Halves are rounded away from zero.",
            &[
                ("round(2.5)", "3"),
                ("round(-2.5)", "-3"),
                ("round(3.14159, 2)", "3.14"),
                ("round(1234.5, -2)", "1200"),
                ("round(9007199254740993)", "9007199254740993"),
            ],
        ),
    of("sign", X, Returns::Int, sign)
        .doc("-1 for negative numbers, 0 for zero, 1 for positive ones.", &[("sign(-0.5)", "-1"), ("sign(0)", "0")]),
    of_double("sin", |args, _| double(float(&args[0])?.sin())).doc("The sine of x radians.", &[("sin(0)", "0")]),
    of_double("sinh", |args, _| double(float(&args[0])?.sinh())).doc("The hyperbolic sine.", &[("sinh(0)", "0")]),
    of_double("sqrt", sqrt).doc("The square root; an error for negative numbers.", &[("sqrt(9)", "3")]),
    of_double("tan", |args, _| double(float(&args[0])?.tan())).doc("The tangent of x radians.", &[("tan(0)", "0")]),
    of_double("tanh", |args, _| double(float(&args[0])?.tanh()))
        .doc("The hyperbolic tangent.", &[("tanh(0)", "0"), ("tanh(50)", "1")]),
];

fn double(f: f64) -> FunctionResult {
    Ok(Value::Float(f))
}

fn in_unit(x: f64, function: fn(f64) -> f64) -> Value {
    if (-1.0..=1.0).contains(&x) { Value::Float(function(x)) } else { Value::Null }
}

/// A whole number is returned unchanged: as a float it could lose digits.
fn whole(x: &Value, function: fn(f64) -> f64) -> FunctionResult {
    match x {
        Value::Int(i) => Ok(Value::Int(*i)),
        x => double(function(float(x)?)),
    }
}

fn abs(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match &args[0] {
        Value::Int(i) => i
            .checked_abs()
            .map(Value::Int)
            .ok_or_else(|| domain(format!("the absolute value of {i} is beyond 64 bits"))),
        Value::Float(f) => double(f.abs()),
        _ => Err(domain("only float64 & int type are supported")),
    }
}

/// The whole number for a bit operation at `index`, which is 0 or 1.
fn operand(args: &Args<'_>, index: usize) -> Result<i64, FunctionError> {
    int(&args[index]).map_err(|_| {
        let which = if index == 0 { "first" } else { "second" };
        domain(format!("Expect int type for the {which} operand but got {}", cast::text(&args[index])))
    })
}

fn cot(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let x = float(&args[0])?;
    if x == 0.0 { Err(domain("out-of-range error")) } else { double(1.0 / x.tan()) }
}

fn ln(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let x = float(&args[0])?;
    if x < 0.0 {
        return Err(domain(format!("The argument must be a strictly positive number but got {}", cast::float_text(x))));
    }
    double(x.ln())
}

fn log_count(literals: &[Option<&Value>]) -> Result<(), String> {
    if (1..=2).contains(&literals.len()) { Ok(()) } else { Err("Expect 1 or 2 arguments only".to_owned()) }
}

fn log(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let first = float(&args[0])?;
    let result = if args.len() < 2 {
        (first > 0.0).then(|| first.log10())
    } else {
        let x = float(&args[1])?;
        (first > 0.0 && first != 1.0 && x > 0.0).then(|| x.ln() / first.ln())
    };
    Ok(result.map_or(Value::Null, Value::Float))
}

fn modulo(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match (&args[0], &args[1]) {
        // The smallest number divided by -1 overflows, although the remainder is 0.
        (Value::Int(a), Value::Int(b)) if *b != 0 => Ok(Value::Int(a.wrapping_rem(*b))),
        (a, b) => double(float(a)? % float(b)?),
    }
}

fn sign(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let x = float(&args[0])?;
    Ok(Value::Int(i64::from(x > 0.0) - i64::from(x < 0.0)))
}

fn sqrt(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let x = float(&args[0])?;
    if x < 0.0 {
        return Err(domain(format!("The argument must be a positive number but got {}", cast::float_text(x))));
    }
    double(x.sqrt())
}

fn round_count(literals: &[Option<&Value>]) -> Result<(), String> {
    if (1..=2).contains(&literals.len()) { Ok(()) } else { Err("Expect 1 or 2 arguments only".to_owned()) }
}

fn round(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    // More places than this change nothing.
    const MOST: f64 = 400.0;
    let places = if args.len() < 2 {
        0
    } else {
        let places = float(&args[1])
            .map_err(|_| domain(format!("The second argument must be an integer: {}", cast::described(&args[1]))))?;
        places.clamp(-MOST, MOST) as i32
    };
    match &args[0] {
        Value::Int(i) if places >= 0 => Ok(Value::Int(*i)),
        Value::Int(i) => {
            let i = i128::from(*i);
            // 10^20 is more than twice the largest number, so beyond it everything is rounded to 0.
            let scale = 10_i128.pow(places.unsigned_abs().min(20));
            let rounded = (i + i.signum() * (scale / 2)) / scale * scale;
            Ok(i64::try_from(rounded).map_or(Value::Float(rounded as f64), Value::Int))
        }
        x => double(round_to(float(x)?, places)),
    }
}

/// The float rounded to this many decimal places, halves away from zero. If the scale overflows, the number has no
/// digits to round.
fn round_to(x: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places.abs());
    let rounded = if places >= 0 { (x * scale).round() / scale } else { (x / scale).round() * scale };
    match rounded.is_finite() {
        true => rounded,
        false if places >= 0 => x,
        false => 0.0,
    }
}

/// As in MySQL.
fn conv(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let (from, to) = (int(&args[1])?, int(&args[2])?);
    let (Some(base), Some(target)) = (base(from), base(to)) else { return Ok(Value::Null) };
    let text = cast::text(&args[0]);
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|digit: char| !digit.is_digit(base)).unwrap_or(digits.len());
    if end == 0 {
        return Ok(Value::from("0"));
    }
    let mut size = u64::from_str_radix(&digits[..end], base)
        .map_err(|_| domain(format!("{} is beyond 64 bits", cast::described(&args[0]))))?;
    if from < 0 {
        size = size.min(if negative { 1 << 63 } else { i64::MAX as u64 });
    }
    let bits = if negative { size.wrapping_neg() } else { size };
    let signed = bits as i64;
    Ok(Value::from(if to < 0 && signed < 0 {
        format!("-{}", digits_of(signed.unsigned_abs(), target))
    } else {
        digits_of(bits, target)
    }))
}

/// The absolute value of the base, if it is valid.
fn base(base: i64) -> Option<u32> {
    u32::try_from(base.unsigned_abs()).ok().filter(|base| (2..=36).contains(base))
}

/// The number in a base from 2 to 36, in upper case.
fn digits_of(mut number: u64, base: u32) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = (number % u64::from(base)) as u32;
        digits.push(char::from_digit(digit, base).expect("a remainder is below its divisor").to_ascii_uppercase());
        number /= u64::from(base);
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, json};
    use super::*;

    #[test]
    fn whole_numbers_stay_exact() {
        let big = Value::Int(9_007_199_254_740_993);
        for name in ["abs", "ceil", "floor", "round"] {
            assert_eq!(json(&answer(name, std::slice::from_ref(&big))), Some("9007199254740993".to_owned()), "{name}");
        }
        assert!(answer("abs", &[Value::Int(i64::MIN)]).is_err());
        assert_eq!(json(&answer("mod", &[Value::Int(i64::MIN), Value::Int(-1)])).as_deref(), Some("0"));
        assert_eq!(json(&answer("round", &[Value::Int(-1250), Value::Int(-2)])).as_deref(), Some("-1300"));
        assert_eq!(json(&answer("round", &[Value::Int(15), Value::Int(-5)])).as_deref(), Some("0"));
    }

    #[test]
    fn edges() {
        for (name, args, expected) in [
            ("exp", vec![1000.0], "inf"),
            ("exp", vec![-1000.0], "0.0"),
            ("ln", vec![0.0], "-inf"),
            ("mod", vec![1.0, 0.0], "NaN"),
            ("power", vec![-8.0, 0.5], "NaN"),
            ("log", vec![10.0, 1000.0], "2.9999999999999996"),
            ("log", vec![0.001], "-3.0"),
            ("round", vec![-0.5], "-1.0"),
            ("round", vec![1e300, 2.9], "1e300"),
            ("round", vec![1.25, 1e9], "1.25"),
            ("round", vec![1.2345, 2.9], "1.23"),
            ("round", vec![1e300, -400.0], "0.0"),
            ("radians", vec![1.5], "0.026179938779914945"),
            ("degrees", vec![180.0], "10313.240312354817"),
        ] {
            let args: Vec<_> = args.into_iter().map(Value::Float).collect();
            match answer(name, &args) {
                Ok(Value::Float(f)) => assert_eq!(format!("{f:?}"), expected, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_has_no_answer_is_an_error() {
        for (name, args) in [
            ("abs", vec![Value::from("1")]),
            ("round", vec![Value::from("1.5")]),
            ("round", vec![Value::Int(1), Value::from("2")]),
            ("floor", vec![Value::array([Value::Float(1.5)])]),
            ("cot", vec![Value::Int(0)]),
            ("ln", vec![Value::Int(-1)]),
            ("sqrt", vec![Value::Int(-1)]),
            ("bitand", vec![Value::Float(1.5), Value::Int(1)]),
            ("bitor", vec![Value::Int(1), Value::from("1")]),
            ("mod", vec![Value::Int(7), Value::from("2")]),
            ("conv", vec![Value::from("99999999999999999999"), Value::Int(10), Value::Int(16)]),
        ] {
            assert!(answer(name, &args).is_err(), "{name} {args:?}");
        }
    }

    #[test]
    fn conv_reads_and_writes_bases() {
        for (value, from, to, expected) in [
            ("1789", 8, 10, "15"),
            ("9", 8, 10, "0"),
            ("x12", 8, 10, "0"),
            ("", 10, 16, "0"),
            ("-", 10, 16, "0"),
            (" +12 ", 10, 10, "12"),
            ("26", 10, -16, "1A"),
            ("18446744073709551615", 10, 16, "FFFFFFFFFFFFFFFF"),
            ("9999999999999999999", -10, 10, "9223372036854775807"),
            ("-9999999999999999999", -10, 10, "9223372036854775808"),
        ] {
            let answer = answer("conv", &[Value::from(value), Value::Int(from), Value::Int(to)]);
            assert_eq!(json(&answer), Some(format!("{expected:?}")), "{value}");
        }
    }

    #[test]
    fn an_empty_array_counts_as_null() {
        assert_eq!(json(&answer("abs", &[Value::array([])])).as_deref(), Some(""));
        assert_eq!(json(&answer("floor", &[Value::object([])])).as_deref(), Some(""));
    }
}
