//! Results of tests as JUnit XML, which CI systems read.

use std::fmt::Write as _;
use std::time::Duration;

use crate::testing::Failure;

/// A test that has run.
pub struct Tested {
    pub file: String,
    pub name: String,
    pub took: Duration,
    /// why it failed, if it did
    pub failure: Option<(Failure, String)>,
}

/// One `testsuite` element for each file.
pub fn xml(tested: &[Tested]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "<testsuites {}>", counts(tested));
    for suite in tested.chunk_by(|one, other| one.file == other.file) {
        let _ = writeln!(text, "  <testsuite name=\"{}\" {}>", escaped(&suite[0].file), counts(suite));
        for test in suite {
            let (name, file, time) = (escaped(&test.name), escaped(&test.file), super::test::seconds(test.took));
            let _ = write!(text, "    <testcase name=\"{name}\" classname=\"{file}\" file=\"{file}\" time=\"{time}\"");
            let Some((failure, report)) = &test.failure else {
                text.push_str("/>\n");
                continue;
            };
            let element = match failure {
                Failure::Differs => "failure",
                Failure::Error => "error",
            };
            let first = escaped(report.lines().next().unwrap_or_default().trim());
            let _ = writeln!(text, ">\n      <{element} message=\"{first}\">{}</{element}>", escaped(report));
            text.push_str("    </testcase>\n");
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn counts(tested: &[Tested]) -> String {
    let of = |wanted: Failure| {
        tested.iter().filter(|test| test.failure.as_ref().is_some_and(|(failure, _)| *failure == wanted)).count()
    };
    let time = super::test::seconds(tested.iter().map(|test| test.took).sum());
    let (failures, errors) = (of(Failure::Differs), of(Failure::Error));
    format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{time}\"", tested.len())
}

/// Escapes text for XML. Characters that XML cannot contain become question marks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_by_file() {
        let test = |file: &str, failure: Option<Failure>| Tested {
            file: file.to_owned(),
            name: "a < \"b\"".to_owned(),
            took: Duration::from_millis(1500),
            failure: failure.map(|failure| (failure, "    first & last\n\u{1b}".to_owned())),
        };
        let tested = [test("one", None), test("one", Some(Failure::Differs)), test("two", Some(Failure::Error))];
        let expected = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites tests=\"3\" failures=\"1\" errors=\"1\" time=\"4.500\">
  <testsuite name=\"one\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"3.000\">
    <testcase name=\"a &lt; &quot;b&quot;\" classname=\"one\" file=\"one\" time=\"1.500\"/>
    <testcase name=\"a &lt; &quot;b&quot;\" classname=\"one\" file=\"one\" time=\"1.500\">
      <failure message=\"first &amp; last\">    first &amp; last
?</failure>
    </testcase>
  </testsuite>
  <testsuite name=\"two\" tests=\"1\" failures=\"0\" errors=\"1\" time=\"1.500\">
    <testcase name=\"a &lt; &quot;b&quot;\" classname=\"two\" file=\"two\" time=\"1.500\">
      <error message=\"first &amp; last\">    first &amp; last
?</error>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(xml(&tested), expected);
    }
}
