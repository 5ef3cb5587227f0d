//! Hashes of texts: digests in hexadecimal.
//!
//! The UTF-8 of the argument's text is hashed, so 12 and "12" have the same hash; bytes are hashed as they are. The
//! digests are for comparing data and for formats of other systems. MD5, SHA-1 and CRC-32 do not protect secrets.

use std::borrow::Cow;
use std::fmt::Write;

use md5::Md5;
use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha256, Sha384, Sha512};

use super::{Args, CallContext, Code, Family, Function, FunctionResult, Param, Returns};
use crate::value::Value;
use crate::value::cast::text;

const fn of(name: &'static str, code: super::ScalarFn) -> Function {
    Function::new(name, Family::Hash, &[("text", Param::Text)], Returns::Text, Code::Scalar(code))
}

pub(super) static FUNCTIONS: &[Function] = &[
    of("crc32", |args, _| Ok(format!("{:x}", crc32fast::hash(&hashed(args))).into())).doc(
        "The CRC-32 checksum (IEEE) in hexadecimal, without leading zeros.",
        &[("crc32(\"a\")", "\"e8b7be43\""), ("crc32(\"\")", "\"0\"")],
    ),
    of("md5", digest::<Md5>).doc(
        "The MD5 digest in hexadecimal.",
        &[("md5(\"hello\")", "\"5d41402abc4b2a76b9719d911017c592\"")],
    ),
    of("sha1", digest::<Sha1>).doc(
        "The SHA-1 digest in hexadecimal.",
        &[("sha1(\"hello\")", "\"aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d\"")],
    ),
    of("sha256", digest::<Sha256>).doc(
        "The SHA-256 digest in hexadecimal.",
        &[("sha256(\"hello\")", "\"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\"")],
    ),
    of("sha384", digest::<Sha384>).doc(
        "The SHA-384 digest in hexadecimal.",
        &[(
            "sha384(\"hello\")",
            "\"59e1748777448c69de6b800d7a33bbfb9ff1b463e44354c3553bcdb9c666fa90125a3c79f90397bdf5f6a13de828684f\"",
        )],
    ),
    of("sha512", digest::<Sha512>).doc(
        "The SHA-512 digest in hexadecimal.",
        &[(
            "sha512(\"hello\")",
            "\"9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043\"",
        )],
    ),
];

fn digest<D: Digest>(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let digest = D::digest(hashed(args));
    let mut hexadecimal = String::with_capacity(digest.len() * 2);
    for byte in digest.iter() {
        // Writing to a String does not fail.
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    Ok(hexadecimal.into())
}

/// The bytes of the first argument.
fn hashed<'a>(args: &'a Args<'_>) -> Cow<'a, [u8]> {
    match &args[0] {
        Value::Bytes(bytes) => Cow::Borrowed(bytes.as_slice()),
        value => match text(value) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, json};
    use super::*;

    #[test]
    fn values_are_hashed_as_their_text_and_bytes_as_they_are() {
        for (value, same) in [
            (Value::Int(12), Value::from("12")),
            (Value::Float(1_234_567.0), "1234567".into()),
            (Value::Float(1.5), "1.5".into()),
            (Value::Bool(true), "true".into()),
            (Value::array([1.into(), "x".into()]), "[1,\"x\"]".into()),
            (Value::from(b"hi".to_vec()), "hi".into()),
            (Value::from("世界🙂"), "世界🙂".as_bytes().to_vec().into()),
        ] {
            for name in ["crc32", "md5", "sha1", "sha256", "sha384", "sha512"] {
                let hash = json(&answer(name, std::slice::from_ref(&value)));
                assert_eq!(hash, json(&answer(name, std::slice::from_ref(&same))), "{name} {value:?}");
            }
        }
        // Bytes that are not UTF-8 are not converted to text.
        let odd = answer("md5", &[vec![0xff_u8, 0xfe].into()]);
        assert_ne!(json(&odd), json(&answer("md5", &["\u{fffd}\u{fffd}".into()])));
        assert_eq!(json(&answer("md5", &[Value::Null])).as_deref(), Some(""));
    }

    #[test]
    fn a_checksum_has_no_zeros_before_it() {
        assert_eq!(json(&answer("crc32", &["v60".into()])).as_deref(), Some("\"f86c29\""));
    }
}
