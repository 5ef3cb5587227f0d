//! Conversions: between types, time zones, text, bytes, bases and compressed forms.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;

use super::{Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, Param, Returns, domain};
use crate::format::compress::{CompressError, Method};
use crate::value::Value;
use crate::value::cast::{self, Target, cast, int, text, to_datetime};

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Conversion, params, returns, Code::Scalar(code))
}

const PACKED: &[(&str, Param)] = &[("data", Param::Any), ("method", Param::Text)];
const SCHEME: &[(&str, Param)] = &[("data", Param::Text), ("scheme", Param::TextLiteral)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("cast", &[("value", Param::Any), ("type", Param::Text)], Returns::Any, |args, context| {
        let target = match &args[1] {
            Value::Text(name) => Target::named(name).ok_or_else(|| unknown_type(name))?,
            _ => return Err(domain("expect string type for type parameter")),
        };
        Ok(cast(&args[0], target, context.zone, context.now)?)
    })
    .check(cast_type)
    .doc(
        "The value as another type: `bigint`, `float`, `string`, `boolean`, `datetime` or `bytea`; also written \
         `CAST(x AS bigint)` and `x::bigint`. A cast to bigint drops the fraction. Text that is cast to a number may \
         have a prefix `0x`, `0o` or `0b`; a number beyond 64 bits can only be a float. Numbers and datetimes are \
         converted by ms since 1970. Text that is cast to bytea is read as base64, or if that fails, as its own \
         bytes.",
        &[
            ("cast(1.9, \"bigint\")", "1"),
            ("cast(\"0x1F\", \"bigint\")", "31"),
            ("cast(\"017\", \"bigint\")", "17"),
            ("cast(\"0xffffffffffffffffff\", \"float\")", "4722366482869645000000"),
            ("cast(cast(\"2024-02-29T12:34:56Z\", \"datetime\"), \"bigint\")", "1709210096000"),
            ("cast(true, \"float\")", "1"),
            ("cast(1234567.5, \"string\")", "\"1234567.5\""),
            ("cast(\"t\", \"boolean\")", "true"),
            ("cast(\"2024-02-29T12:34:56Z\", \"datetime\")", "\"2024-02-29T12:34:56Z\""),
            ("cast(\"aGk=\", \"bytea\")", "\"aGk=\""),
            ("cast(null, \"string\")", ""),
        ],
    ),
    of("try_cast", &[("value", Param::Any), ("type", Param::Text)], Returns::Any, |args, context| {
        let Value::Text(name) = &args[1] else { return Err(domain("expect string type for type parameter")) };
        let target = Target::named(name).ok_or_else(|| unknown_type(name))?;
        // Null if the value cannot be converted.
        Ok(cast(&args[0], target, context.zone, context.now).unwrap_or(Value::Null))
    })
    .check(cast_type)
    .doc(
        "Like `cast`, but returns null if the value cannot be converted, so that the row is not lost.",
        &[
            ("try_cast(\"12\", \"bigint\")", "12"),
            ("try_cast(\"n/a\", \"bigint\")", ""),
            ("coalesce(try_cast(\"n/a\", \"float\"), -1)", "-1"),
        ],
    ),
    of("chr", &[("code", Param::IntOrText)], Returns::Text, chr).doc(
        "The character of a code point, as text. A text of one character is unchanged.",
        &[("chr(65)", "\"A\""), ("chr(8364)", "\"€\""), ("chr(\"A\")", "\"A\"")],
    ),
    of("compress", PACKED, Returns::Bytes, compress).doc(
        "Text or bytes, compressed with `gzip`, `zlib`, `flate` (raw deflate) or `zstd`.",
        &[("cast(decompress(compress(\"hello\", \"gzip\"), \"gzip\"), \"string\")", "\"hello\"")],
    ),
    of("convert_tz", &[("time", Param::DateTime), ("zone", Param::Text)], Returns::DateTime, convert_tz).doc(
        "The same point in time in another time zone: a name of the IANA database, `UTC` (or empty text), or `Local`.",
        &[("convert_tz(cast(1700000000000, \"datetime\"), \"Asia/Shanghai\")", "\"2023-11-15T06:13:20+08:00\"")],
    ),
    of("dec2hex", &[("number", Param::Int)], Returns::Text, |args, _| {
        let number = int(&args[0])?;
        let sign = if number < 0 { "-" } else { "" };
        Ok(format!("{sign}{:#x}", number.unsigned_abs()).into())
    })
    .doc(
        "A whole number in hexadecimal, with the prefix `0x`.",
        &[("dec2hex(255)", "\"0xff\""), ("dec2hex(-16)", "\"-0x10\"")],
    ),
    of("decode", SCHEME, Returns::Bytes, |args, _| match &args[0] {
        Value::Text(text) => match cast::base64_bytes(text) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(domain(format!("fail to decode base64 string: {error}"))),
        },
        _ => Err(domain("Only string type can be decoded.")),
    })
    .check(base64_alone)
    .doc(
        "Decodes a text to bytes; the scheme is `base64`, with padding.",
        &[("cast(decode(\"aGVsbG8=\", \"base64\"), \"string\")", "\"hello\"")],
    ),
    of("decompress", PACKED, Returns::Bytes, decompress).doc(
        "Decompresses data that `compress`, or another program with the same method, has compressed. More than 64 MiB \
         are an error.",
        &[("cast(decompress(compress(\"hello\", \"zstd\"), \"zstd\"), \"string\")", "\"hello\"")],
    ),
    of("encode", SCHEME, Returns::Text, |args, _| match &args[0] {
        Value::Text(text) => Ok(STANDARD.encode(text.as_bytes()).into()),
        Value::Bytes(bytes) => Ok(STANDARD.encode(bytes.as_slice()).into()),
        _ => Err(domain("Only string type can be encoded.")),
    })
    .check(base64_alone)
    .doc(
        "Encodes text or bytes as text; the scheme is `base64`.",
        &[("encode(\"hello\", \"base64\")", "\"aGVsbG8=\"")],
    ),
    of("hex2dec", &[("text", Param::Text)], Returns::Int, hex2dec).doc(
        "Reads a hexadecimal number, with or without `0x` and a sign.",
        &[("hex2dec(\"0xff\")", "255"), ("hex2dec(\"-10\")", "-16")],
    ),
    of("to_seconds", &[("time", Param::Any)], Returns::Int, |args, context| {
        let at = to_datetime(&args[0], context.zone, context.now)?;
        Ok(Value::Int(at.timestamp().as_nanosecond().div_euclid(1_000_000_000) as i64))
    })
    .doc(
        "The seconds from 1970 to a point in time, rounded down.",
        &[("to_seconds(cast(1700000000999, \"datetime\"))", "1700000000")],
    ),
    of("trunc", &[("number", Param::Number), ("places", Param::Int)], Returns::Any, |args, _| {
        let places = usize::try_from(int(&args[1])?).unwrap_or(0);
        match &args[0] {
            Value::Int(i) => Ok(Value::Int(*i)),
            number => Ok(Value::Float(cut_to(cast::float(number)?, places))),
        }
    })
    .doc(
        "The number truncated to a number of decimal places; negative places count as 0.",
        &[
            ("trunc(1.99, 1)", "1.9"),
            ("trunc(-1.99, 0)", "-1"),
            ("trunc(0.29, 2)", "0.29"),
            ("trunc(128.4, -1)", "128"),
        ],
    ),
];

fn unknown_type(name: &str) -> FunctionError {
    domain(format!("unknown type {name}, only bigint, float, string, boolean, datetime and bytea are supported"))
}

fn cast_type(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.get(1) {
        Some(Some(Value::Text(name))) if Target::named(name).is_none() => {
            Err("Expect one of following value for the 2nd parameter: bigint, float, string, boolean, datetime, bytea."
                .to_owned())
        }
        Some(Some(Value::Int(_) | Value::Float(_) | Value::Bool(_))) => {
            // The position in eKuiper's text, which users know.
            Err("Expect string type for parameter 1".to_owned())
        }
        _ => Ok(()),
    }
}

fn base64_alone(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [_, Some(Value::Text(scheme))] if scheme != "base64" => {
            Err("Only base64 is supported for the 2nd parameter.".to_owned())
        }
        _ => Ok(()),
    }
}

fn chr(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    let code = match &args[0] {
        Value::Text(text) => {
            let mut characters = text.chars();
            return match (characters.next(), characters.next()) {
                (Some(_), None) => Ok(Value::Text(text.clone())),
                _ => Err(domain("Parameter must be one character.")),
            };
        }
        number @ (Value::Int(_) | Value::Float(_)) => cast(number, Target::Int, context.zone, context.now)?,
        _ => return Err(domain("Only bigint, float and string type can be convert to char type.")),
    };
    let code = int(&code)?;
    match u32::try_from(code).ok().and_then(char::from_u32) {
        Some(character) => Ok(character.to_string().into()),
        None => Err(domain(format!("{code} is not the code point of a character"))),
    }
}

fn convert_tz(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    let at = to_datetime(&args[0], context.zone, context.now)?;
    let Value::Text(name) = &args[1] else {
        return Err(domain(format!("the zone must be text, but is {}", cast::described(&args[1]))));
    };
    let zone = match name.as_str() {
        "" | "UTC" => TimeZone::UTC,
        "Local" => TimeZone::system(),
        name => TimeZone::get(name).map_err(|_| domain(format!("unknown time zone {name}")))?,
    };
    Ok(Value::DateTime(Arc::new(at.with_time_zone(zone))))
}

fn hex2dec(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let Value::Text(written) = &args[0] else {
        return Err(domain(format!("invalid input type: {} please input hex string", text(&args[0]))));
    };
    let invalid = || domain(format!("invalid hexadecimal value: {written}"));
    // The sign may come before the prefix, as `dec2hex` writes it, or after it, as eKuiper writes it.
    let unsigned = written.trim_start_matches(['-', '+']);
    let rest = unsigned.strip_prefix("0x").unwrap_or(unsigned);
    let digits = rest.trim_start_matches('-');
    let signs = written.len() - unsigned.len() + rest.len() - digits.len();
    if signs > 1 {
        return Err(invalid());
    }
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let size = u64::from_str_radix(digits, 16).map_err(|_| invalid())?;
    let number = if written.contains('-') { -i128::from(size) } else { i128::from(size) };
    i64::try_from(number).map(Value::Int).map_err(|_| invalid())
}

/// The float cut after this many places. It is cut as text and not by arithmetic: 0.29 · 100 is slightly less than 29.
fn cut_to(number: f64, places: usize) -> f64 {
    if !number.is_finite() {
        return number;
    }
    let written = number.to_string();
    match written.find('.') {
        Some(point) if written.len() - point - 1 > places => written[..point + 1 + places].parse().unwrap_or(number),
        _ => number,
    }
}

/// The two arguments of compress and decompress.
fn packed<'a>(args: &'a Args<'_>, unsupported: &'static str) -> Result<(&'a [u8], Method), FunctionError> {
    let data = match &args[0] {
        Value::Text(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes.as_slice(),
        other => return Err(domain(format!("require string or bytea parameter, but got {}", text(other)))),
    };
    let name = text(&args[1]);
    let method = Method::of(&name).ok_or_else(|| domain(format!("unsupported {unsupported}: {name}")))?;
    Ok((data, method))
}

fn compress(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let (data, method) = packed(args, "compressor")?;
    method.pack(data).map(Value::from).map_err(|error| domain(format!("fail to compress: {error}")))
}

fn decompress(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let (data, method) = packed(args, "decompressor")?;
    method.unpack(data).map(Value::from).map_err(|error| match error {
        CompressError::TooLarge => domain(error.to_string()),
        error => domain(format!("fail to decompress: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, gives};
    use super::super::{check_call, lookup};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_from_fields() {
        gives("cast", &["7".into(), "bigint".into()], "7");
        gives("cast", &[7.into(), "string".into()], "\"7\"");
        gives("cast", &[Value::array([]), "string".into()], "");
        gives("cast", &[Value::array([1.into(), "x".into()]), "string".into()], r#""[1,\"x\"]""#);
        assert!(answer("cast", &["7".into(), "int".into()]).is_err());
        assert!(answer("cast", &["7".into(), 1.into()]).is_err());
        assert!(answer("cast", &[1e30.into(), "bigint".into()]).is_err());
    }

    #[test]
    fn zones() {
        gives("convert_tz", &[1_720_000_000_000.into(), "America/New_York".into()], "\"2024-07-03T05:46:40-04:00\"");
        gives("convert_tz", &[1_720_000_000_000.into(), "".into()], "\"2024-07-03T09:46:40Z\"");
        gives("convert_tz", &["2024-01-01".into(), "UTC".into()], "\"2024-01-01T00:00:00Z\"");
        assert!(answer("convert_tz", &[0.into(), "Mars/Base".into()]).is_err());
        assert!(answer("convert_tz", &["later".into(), "UTC".into()]).is_err());
        gives("to_seconds", &[Value::Int(-1500)], "-2");
        gives("to_seconds", &["1970-01-02".into()], "86400");
    }

    #[test]
    fn hexadecimal_and_characters() {
        for (hex, number) in
            [("-0x10", "-16"), ("+10", "16"), ("0x-10", "-16"), ("7fffffffffffffff", "9223372036854775807")]
        {
            gives("hex2dec", &[hex.into()], number);
        }
        for bad in ["", "0x", "--1", "-0x-1", "+-1", "0xffffffffffffffff", "g"] {
            assert!(answer("hex2dec", &[bad.into()]).is_err(), "{bad}");
        }
        assert!(answer("hex2dec", &[10.into()]).is_err());
        gives("dec2hex", &[16.0.into()], "\"0x10\"");
        gives("dec2hex", &[i64::MIN.into()], "\"-0x8000000000000000\"");
        assert!(answer("dec2hex", &[1.5.into()]).is_err());
        assert!(answer("dec2hex", &["16".into()]).is_err());
        gives("chr", &["é".into()], "\"é\"");
        for bad in [Value::Bool(true), "ab".into(), "".into(), Value::Int(-1), 0xd800.into(), f64::NAN.into()] {
            assert!(answer("chr", std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_cut() {
        for (number, places, expected) in
            [(-1.99, 1, "-1.9"), (1.5, 30, "1.5"), (3.14149, 3, "3.141"), (1e300, 2, "1e300")]
        {
            match answer("trunc", &[number.into(), Value::Int(places)]) {
                Ok(Value::Float(cut)) => assert_eq!(format!("{cut:?}"), expected),
                other => panic!("{other:?}"),
            }
        }
        gives("trunc", &[1.2345.into(), 1.0.into()], "1.2");
        gives("trunc", &[Value::Int(i64::MAX), 1.into()], "9223372036854775807");
        assert!(answer("trunc", &["1.25".into(), 1.into()]).is_err());
    }

    #[test]
    fn every_method_undoes_itself() {
        for method in ["gzip", "zlib", "flate", "zstd"] {
            for data in ["", "hello hello hello", "é世界"] {
                let packed = answer("compress", &[data.into(), method.into()]).unwrap_or_default();
                let unpacked = answer("decompress", &[packed, method.into()]).unwrap_or_default();
                assert_eq!(text(&unpacked), data, "{method}");
            }
            assert!(answer("decompress", &["not compressed".into(), method.into()]).is_err(), "{method}");
        }
        assert!(answer("compress", &["x".into(), "lzma".into()]).is_err());
        assert!(answer("compress", &[5.into(), "gzip".into()]).is_err());
    }

    #[test]
    fn data_from_elsewhere() {
        let fox = "The quick brown fox. ".repeat(5);
        for (method, data) in [
            ("zlib", "eJwLyUhVKCzNTM5WSCrKL89TSMuv0FMIoYEgALEVJOY="),
            ("flate", "C8lIVSgszUzOVkgqyi/PU0jLr9BTCKGBIAA="),
        ] {
            let packed = answer("decode", &[data.into(), "base64".into()]).unwrap_or_default();
            let unpacked = answer("decompress", &[packed, method.into()]).unwrap_or_default();
            assert_eq!(text(&unpacked), fox, "{method}");
        }
    }

    #[test]
    fn small_data_that_grows_without_end_is_refused() {
        let zeros = vec![0; crate::format::compress::LARGEST as usize + 1];
        let bomb = answer("compress", &[zeros.into(), "gzip".into()]).unwrap_or_default();
        assert!(answer("decompress", &[bomb, "gzip".into()]).is_err());
    }

    #[test]
    fn base64() {
        gives("encode", &["a?b>".into(), "base64".into()], "\"YT9iPg==\"");
        for bad in ["@@@", "aGk"] {
            assert!(answer("decode", &[bad.into(), "base64".into()]).is_err(), "{bad}");
        }
        assert!(answer("decode", &[5.into(), "base64".into()]).is_err());
    }

    #[test]
    fn refusals() {
        let refusal = |name: &str, args: &[Option<Value>]| {
            let literals: Vec<_> = args.iter().map(Option::as_ref).collect();
            let function = lookup(name)?;
            check_call(function, &literals, &vec![None; args.len()]).err().map(|error| error.to_string())
        };
        let types =
            "Expect one of following value for the 2nd parameter: bigint, float, string, boolean, datetime, bytea.";
        for (name, args, expected) in [
            ("cast", vec![None], Some("Expect 2 arguments but found 1.")),
            ("cast", vec![None, Some("BIGINT".into())], Some(types)),
            ("cast", vec![None, Some(1.into())], Some("Expect string type for parameter 1")),
            ("cast", vec![None, None], None),
            ("encode", vec![None, Some("BASE64".into())], Some("Only base64 is supported for the 2nd parameter.")),
            ("encode", vec![None, None], Some("Expect string type for parameter 2")),
            ("decode", vec![None, Some("base64".into()), Some(1.into())], Some("Expect 2 arguments but found 3.")),
            ("chr", vec![Some(65.5.into())], Some("Expect int type for parameter 1")),
            ("chr", vec![Some(true.into())], Some("Expect int type for parameter 1")),
            ("convert_tz", vec![Some(0.into()), None], Some("Expect datetime type for parameter 1")),
            ("decompress", vec![None, Some("lzma".into())], None),
            ("dec2hex", vec![Some(16.into())], None),
        ] {
            assert_eq!(refusal(name, &args).as_deref(), expected, "{name} {args:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_data_survives_and_no_damage_panics(
            words in prop::collection::vec("[ab]{1,9}|[ -~]{1,40}", 0..400),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let data: Vec<u8> = words.concat().into_bytes();
            for method in ["gzip", "zlib", "flate", "zstd"] {
                let packed = answer("compress", &[data.clone().into(), method.into()]);
                let Ok(Value::Bytes(packed)) = packed else { return Err(TestCaseError::fail("not compressed")) };
                match answer("decompress", &[Value::Bytes(packed.clone()), method.into()]) {
                    Ok(Value::Bytes(unpacked)) => prop_assert_eq!(&*unpacked, &data),
                    other => return Err(TestCaseError::fail(format!("{method}: {other:?}"))),
                }
                let mut damaged = packed.to_vec();
                for (at, byte) in &damage {
                    let at = at.index(damaged.len());
                    damaged[at] = *byte;
                }
                let _ = answer("decompress", &[damaged.into(), method.into()]);
            }
        }
    }
}
