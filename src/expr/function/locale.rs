//! How languages and countries write numbers: the part of the Unicode CLDR that `format` needs.
//!
//! The data consists of a table of languages and one of countries that differ from their language. A locale must have
//! both parts, since only both together determine how numbers are written.

/// How the digits before the decimal point are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grouping {
    Thousands,
    /// the last three, then groups of two: lakh and crore
    Lakh,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    group: char,
    point: char,
    grouping: Grouping,
}

const NO_BREAK_SPACE: char = '\u{a0}';
const APOSTROPHE: char = '\u{2019}';

const ENGLISH: Style = Style { group: ',', point: '.', grouping: Grouping::Thousands };
const GERMAN: Style = Style { group: '.', point: ',', grouping: Grouping::Thousands };
const FRENCH: Style = Style { group: NO_BREAK_SPACE, point: ',', grouping: Grouping::Thousands };
const SWISS: Style = Style { group: APOSTROPHE, point: '.', grouping: Grouping::Thousands };
const INDIAN: Style = Style { group: ',', point: '.', grouping: Grouping::Lakh };

/// Languages by how they write numbers.
const LANGUAGES: &[(Style, &[&str])] = &[
    (
        ENGLISH,
        &[
            "am", "ar", "cy", "en", "fil", "ga", "ha", "he", "ig", "ja", "ko", "mn", "ms", "my", "ne", "si", "so",
            "sw", "th", "yo", "zh", "zu",
        ],
    ),
    (
        GERMAN,
        &[
            "az", "bs", "ca", "da", "de", "el", "es", "eu", "fo", "gl", "hr", "id", "is", "it", "lo", "mk", "nl", "pt",
            "ro", "sl", "sr", "tr", "vi",
        ],
    ),
    (
        FRENCH,
        &[
            "af", "be", "bg", "cs", "et", "fi", "fr", "hu", "hy", "ka", "kk", "ky", "lt", "lv", "nb", "nn", "no", "pl",
            "ru", "sk", "sq", "sv", "tk", "uk", "uz",
        ],
    ),
    (SWISS, &["gsw", "rm"]),
    (INDIAN, &["bn", "gu", "hi", "kn", "ml", "mr", "pa", "ta", "te", "ur"]),
];

/// Countries that write numbers differently from the rest of their language.
const COUNTRIES: &[(&str, &str, Style)] = &[
    ("de", "AT", Style { group: NO_BREAK_SPACE, ..GERMAN }),
    ("de", "CH", SWISS),
    ("de", "LI", SWISS),
    ("en", "AT", Style { group: NO_BREAK_SPACE, ..GERMAN }),
    ("en", "BE", GERMAN),
    ("en", "CH", SWISS),
    ("en", "DE", GERMAN),
    ("en", "DK", GERMAN),
    ("en", "FI", FRENCH),
    ("en", "IN", INDIAN),
    ("en", "NL", GERMAN),
    ("en", "SE", FRENCH),
    ("en", "SI", GERMAN),
    ("en", "ZA", FRENCH),
    ("es", "CR", FRENCH),
    ("es", "DO", ENGLISH),
    ("es", "GT", ENGLISH),
    ("es", "HN", ENGLISH),
    ("es", "MX", ENGLISH),
    ("es", "NI", ENGLISH),
    ("es", "PA", ENGLISH),
    ("es", "PE", ENGLISH),
    ("es", "PR", ENGLISH),
    ("es", "SV", ENGLISH),
    ("es", "US", ENGLISH),
    ("fr", "LU", GERMAN),
    ("fr", "MA", GERMAN),
    ("it", "CH", SWISS),
    ("pt", "PT", FRENCH),
];

/// The style of a locale `en_US` or `en-US`, or `None` if the language is unknown or the country is missing.
pub(super) fn style(locale: &str) -> Option<Style> {
    let (language, country) = locale.split_once(['_', '-'])?;
    let is_country = match country.len() {
        2 => country.bytes().all(|byte| byte.is_ascii_alphabetic()),
        3 => country.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    if !is_country {
        return None;
    }
    let special = COUNTRIES
        .iter()
        .find(|(of, here, _)| of.eq_ignore_ascii_case(language) && here.eq_ignore_ascii_case(country))
        .map(|(_, _, style)| *style);
    special.or_else(|| {
        let knows = |languages: &[&str]| languages.iter().any(|known| known.eq_ignore_ascii_case(language));
        LANGUAGES.iter().find(|(_, languages)| knows(languages)).map(|(style, _)| *style)
    })
}

/// The number `-?digits[.digits]` in this style. Other text (infinity) is not changed.
pub(super) fn styled(number: &str, style: Style) -> String {
    let (sign, size) = match number.strip_prefix('-') {
        Some(size) => ("-", size),
        None => ("", number),
    };
    let (whole, fraction) = match size.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (size, None),
    };
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut styled = String::with_capacity(number.len() * 2);
    styled.push_str(sign);
    for (at, digit) in whole.char_indices() {
        // The number of digits from here to the decimal point.
        let left = whole.len() - at;
        let starts_group = match style.grouping {
            Grouping::Thousands => left % 3 == 0,
            Grouping::Lakh => left == 3 || (left > 3 && left % 2 == 1),
        };
        if at > 0 && starts_group {
            styled.push(style.group);
        }
        styled.push(digit);
    }
    if let Some(fraction) = fraction {
        styled.push(style.point);
        styled.push_str(fraction);
    }
    styled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_many_countries() {
        for (locale, number, expected) in [
            ("en_US", "1234567.891", "1,234,567.891"),
            ("en-GB", "1234.6", "1,234.6"),
            ("de_DE", "-1234567.8", "-1.234.567,8"),
            ("de_CH", "1234567.89", "1’234’567.89"),
            ("pl_PL", "1234567.9", "1\u{a0}234\u{a0}567,9"),
            ("hi_IN", "12345678.9", "1,23,45,678.9"),
            ("en_IN", "123", "123"),
            ("en_IN", "1234", "1,234"),
            ("zh_CN", "100", "100"),
            ("es_MX", "1000", "1,000"),
            ("es_ES", "1000", "1.000"),
            ("en_US", "+Inf", "+Inf"),
        ] {
            assert_eq!(style(locale).map(|style| styled(number, style)).as_deref(), Some(expected), "{locale}");
        }
        for locale in ["", "en", "xx_US", "en_", "en_USA", "en_é"] {
            assert_eq!(style(locale), None, "{locale}");
        }
    }
}
