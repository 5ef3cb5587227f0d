//! Results of templates, from the documentation of text/template and sprig, and a test that nothing panics.

use proptest::prelude::*;

use super::*;
use crate::format::json;

fn run(template: &str, data: &str) -> Result<String, String> {
    let template = Template::new(template).map_err(|error| error.to_string())?;
    template.run(&json::parse(data).expect("the data is JSON")).map_err(|error| error.to_string())
}

const DATA: &str = r#"{"id": 7, "name": "ann", "f": 3.0, "g": 3.25, "big": 123456789.5, "whole": 1712345678901, "yes": true,
    "no": false, "nil": null, "list": ["a", "b"], "empty": [], "o": {"b": {"c": 5}, "a": "x"}, "s": " aBb ", "neg": -5}"#;

#[test]
fn results() {
    for (template, expected) in [
        ("", ""),
        (
            "{{mustFirst .list}} {{mustHas \"a\" .list}} {{trimall \"$\" \"$5$\"}} {{adler32sum \"Wikipedia\"}}",
            "a true 5 300286872",
        ),
        (
            "{{toDate \"2006-01-02\" \"2024-02-29\" | date_modify \"-1h30m\" | date \"01-02 15:04\"}} {{date_in_zone \"15\" 0 \"Asia/Tokyo\"}}",
            "02-28 22:30 09",
        ),
        ("plain } text", "plain } text"),
        ("{{.id}} {{ .name }}", "7 ann"),
        ("{{.f}} {{.g}} {{.big}} {{.whole}}", "3 3.25 1.234567895e+08 1712345678901"),
        ("{{.yes}} {{.nil}} {{.gone}}", "true <no value> <no value>"),
        ("{{.list}} {{.o}}", "[a b] map[a:x b:map[c:5]]"),
        ("{{.o.b.c}} {{(index .list 1)}} {{index .o \"a\"}}", "5 b x"),
        ("a {{- .id -}} b", "a7b"),
        ("a {{/* no */}} b{{- /* no */ -}} c", "a  bc"),
        ("{{if .yes}}1{{else}}2{{end}}{{if .nil}}1{{else}}2{{end}}{{if .empty}}1{{end}}", "12"),
        ("{{if eq .id 8}}a{{else if gt .id 6.5}}b{{else}}c{{end}}", "b"),
        ("{{with .o}}{{.a}}{{else}}-{{end}}{{with .gone}}x{{else}}-{{end}}", "x-"),
        ("{{range .list}}<{{.}}>{{end}}{{range .empty}}x{{else}}none{{end}}", "<a><b>none"),
        ("{{range $i, $e := .list}}{{if $i}},{{end}}{{$i}}={{$e}}{{end}}", "0=a,1=b"),
        ("{{range $k, $v := .o}}{{$k}} {{end}}{{range 3}}{{.}}{{end}}", "a b 012"),
        ("{{range .list}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{$.id}}{{end}}", "a7"),
        ("{{range .list}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b"),
        ("{{$x := 1}}{{range .list}}{{$x = add $x 1}}{{end}}{{$x}}", "3"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{define \"t\"}}[{{.}}]{{end}}{{template \"t\" .id}}{{block \"u\" .name}}({{.}}){{end}}", "[7](ann)"),
        ("{{and .yes .no}} {{or .no .id}} {{not .yes}} {{and 1 0 (index .list 9)}}", "false 7 false 0"),
        ("{{eq .id 1 7.0}} {{ne .name \"bob\"}} {{lt 1 2}} {{le 2 2}} {{ge \"b\" \"a\"}}", "true true true true true"),
        ("{{len .list}} {{len .name}} {{len .o}} {{slice .name 1 2}}", "2 3 2 n"),
        ("{{print 1 2 \"a\" \"b\" 3}}|{{println 1 \"a\"}}|", "1 2ab3|1 a\n|"),
        (
            "{{printf \"%05d|%-4s|%6.2f|%q|%v|%t|%x|%%\" 42 \"a\" 3.14159 \"q\\\"\" .list true 255}}",
            "00042|a   |  3.14|\"q\\\"\"|[a b]|true|ff|%",
        ),
        ("{{printf \"%d %s\" \"x\"}}", "%!d(string=x) %!s(MISSING)"),
        ("{{html \"<a & 'b'>\"}} {{urlquery \"a b&c\"}} {{js \"it's\"}}", "&lt;a &amp; &#39;b&#39;&gt; a+b%26c it\\'s"),
        ("{{.name | upper | printf \"%s-%s\" \"x\"}}", "x-ANN"),
        ("{{json .o.b}} {{toJson .list}} {{.name | json}}", "{\"c\":5} [\"a\",\"b\"] \"ann\""),
        (
            "{{add .id 1 2}} {{sub .id 1}} {{mul 2 3 4}} {{div 7 2}} {{mod 7 4}} {{max 1 9 3}} {{min 4 2}}",
            "10 6 24 3 3 9 2",
        ),
        (
            "{{round 3.14159 2}} {{floor 2.7}} {{ceil 2.1}} {{addf 0.5 1}} {{int \"12\"}} {{float64 \"1.5\"}}",
            "3.14 2 3 1.5 12 1.5",
        ),
        (
            "{{trim .s}}|{{replace \"b\" \"-\" .s}}|{{repeat 3 \"x\"}}|{{trunc 2 \"hello\"}}|{{substr 1 3 \"hello\"}}",
            "aBb| aB- |xxx|he|el",
        ),
        (
            "{{title \"hello world\"}} {{snakecase \"HelloWorld\"}} {{camelcase \"a_bc\"}} {{kebabcase \"aBc\"}}",
            "Hello World hello_world ABc a-bc",
        ),
        (
            "{{join \"-\" .list}} {{has \"b\" .list}} {{first .list}} {{last .list}} {{splitList \",\" \"a,b\"}}",
            "a-b true a b [a b]",
        ),
        ("{{default \"d\" .nil}} {{coalesce .nil \"\" 3}} {{ternary \"t\" \"f\" .yes}} {{empty .empty}}", "d 3 t true"),
        ("{{dict \"id\" .id \"tags\" (list \"a\" 1) | toJson}}", "{\"id\":7,\"tags\":[\"a\",1]}"),
        ("{{(dict \"a\" 1).a}} {{get .o \"a\"}} {{hasKey .o \"z\"}} {{dig \"b\" \"c\" 0 .o}}", "1 x false 5"),
        ("{{base64 .id}} {{base64 .yes}} {{base64 .o.b}} {{b64dec (b64enc \"x\")}}", "Nw== dHJ1ZQ== eyJjIjo1fQ== x"),
        ("{{regexMatch \"^a.n$\" .name}} {{regexReplaceAll \"(n+)\" .name \"<$1>\"}}", "true a<nn>"),
        ("{{date \"2006-01-02 15:04:05\" 0}} {{unixEpoch 5}} {{duration 3723}}", "1970-01-01 00:00:00 5 1h2m3s"),
        ("{{`raw \"x\"`}} {{\"\\u00e9\\n\"}}{{'a'}} {{0x1f}} {{1e3}} {{-2}}", "raw \"x\" \u{e9}\n97 31 1000 -2"),
        ("{{until 3}} {{untilStep 0 6 2}} {{seq 3}}", "[0 1 2] [0 2 4] 1 2 3"),
        ("{{printf \"%.2f %6.1f %e %g %d\" .id .neg 1500 7 .id}}", "7.00   -5.0 1.500000e+03 7 7"),
        (
            "{{printf \"%[2]d %[1]d\" 1 2}} {{printf \"%[3]d\" 1}} {{printf \"%[x]d|\" 1}}",
            "2 1 %!d(BADINDEX) %!d(BADINDEX)|",
        ),
        (
            "{{$d := dict \"b\" 1}}{{$_ := set $d \"a\" 2}}{{json $d}}{{$_ := unset $d \"b\"}}{{json $d}}",
            "{\"a\":2,\"b\":1}{\"a\":2}",
        ),
        (
            "{{json .o}} {{base64 .o | b64dec}} {{keys .o}} {{values (dict \"z\" 1 \"y\" 2)}}",
            "{\"a\":\"x\",\"b\":{\"c\":5}} {\"a\":\"x\",\"b\":{\"c\":5}} [a b] [2 1]",
        ),
        ("{{json \"<&>\"}} {{toRawJson \"<&>\"}}", "\"\\u003c\\u0026\\u003e\" \"<&>\""),
        (
            "{{merge (dict \"a\" (dict \"x\" 1)) (dict \"a\" (dict \"x\" 2 \"y\" 3)) | json}}",
            "{\"a\":{\"x\":1,\"y\":3}}",
        ),
        (
            "{{dateInZone \"2006-01-02T15:04:05Z07:00\" 0 \"UTC\"}} {{dateInZone \"15:04Z07:00\" 0 \"Asia/Tokyo\"}}",
            "1970-01-01T00:00:00Z 09:00+09:00",
        ),
        ("{{quote .name .id}} {{cat 1 \"b\"}} {{nindent 2 \"x\"}}", "\"ann\" \"7\" 1 b \n  x"),
    ] {
        assert_eq!(run(template, DATA).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn refusals() {
    for (template, expected) in [
        ("{{nosuch .x}}", "template: sink:1: function \"nosuch\" not defined"),
        ("a\n{{.x", "template: sink:2: unclosed action"),
        ("{{if .x}}", "template: sink:1: unexpected EOF"),
        ("{{end}}", "template: sink:1: unexpected {{end}}"),
        ("{{$x}}", "template: sink:1: undefined variable \"$x\""),
        ("{{}}", "template: sink:1: missing value for command"),
        ("{{.a | .b}}", "template: sink:1: non executable command in pipeline stage 2"),
        ("{{.a .b}}", "template: sink:1: can't give argument to non-function"),
        ("{{(1}}", "template: sink:1: unclosed left paren"),
        ("{{\"a}}", "template: sink:1: unterminated quoted string"),
        ("{{/* a }}", "template: sink:1: unclosed comment"),
        ("{{break}}", "template: sink:1: {{break}} outside {{range}}"),
        ("{{env \"HOME\"}}", "template: sink:1: function \"env\" not defined"),
    ] {
        assert_eq!(run(template, "{}").err().as_deref(), Some(expected), "{template}");
    }
}

#[test]
fn failures_at_run_time() {
    for (template, expected) in [
        ("\n{{index .list 5}}", "template: sink:2: error calling index: index out of range: 5"),
        ("{{.id.x}}", "template: sink:1: can't evaluate field x in int64"),
        ("{{gt .name 1}}", "template: sink:1: error calling gt: incompatible types for comparison"),
        ("{{range .id}}{{end}}{{range .name}}{{end}}", "template: sink:1: range can't iterate over ann"),
        ("{{template \"x\"}}", "template: sink:1: template \"x\" not defined"),
        (
            "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
            "template: sink:1: exceeded maximum template depth",
        ),
        ("{{range 2000000}}{{end}}", "template: sink:1: the template takes too many steps"),
        ("{{$x := list}}{{range until 64}}{{$x = list $x $x}}{{end}}{{$x}}", "template: sink:1: the list is too large"),
        ("{{div 1 0}}", "template: sink:1: error calling div: integer divide by zero"),
        ("{{fail \"no\"}}", "template: sink:1: error calling fail: no"),
        ("{{upper}}", "template: sink:1: error calling upper: wrong number of args for upper: want 1 got 0"),
    ] {
        assert_eq!(run(template, DATA).err().as_deref(), Some(expected), "{template}");
    }
}

#[test]
fn texts_have_a_limit() {
    let long = "repeat 500000 \"x\"";
    for (template, name) in [
        (format!("{{{{join ({long}) (list 1 2 3 4)}}}}"), "join"),
        (format!("{{{{replace \",\" ({long}) \"1,2,3,4\"}}}}"), "replace"),
        (format!("{{{{regexReplaceAll \",\" \"1,2,3,4\" ({long})}}}}"), "regexReplaceAll"),
        (format!("{{{{regexReplaceAllLiteral \",\" \"1,2,3,4\" ({long})}}}}"), "regexReplaceAllLiteral"),
        (format!("{{{{wrapWith 1 ({long}) \"1 2 3 4\"}}}}"), "wrapWith"),
        ("{{indent 1000 (repeat 2000 \"\\n\")}}".to_owned(), "indent"),
        ("{{nindent 1000 (repeat 2000 \"\\n\")}}".to_owned(), "nindent"),
    ] {
        let expected = format!("template: sink:1: error calling {name}: the text is too long");
        assert_eq!(run(&template, "{}").err(), Some(expected), "{template}");
    }
    // The elements share one text.
    let shared = format!(
        "{{{{$x := list ({long})}}}}{{{{range until 9}}}}{{{{$x = concat $x $x}}}}{{{{end}}}}{{{{toJson $x}}}}"
    );
    assert_eq!(run(&shared, "{}").err().as_deref(), Some("template: sink:1: the list is too large"));
}

#[test]
fn replacing_nothing_inserts_everywhere() {
    assert_eq!(run("{{replace \"\" \"-\" \"ab\"}}{{replace \"\" \"-\" \"\"}}", "{}").as_deref(), Ok("-a-b--"));
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("{{if 1}}", "{{end}}"), ("{{(", "")] {
        let _ = Template::new(&(open.repeat(50_000) + &close.repeat(50_000)));
    }
    let _ = Template::new(&format!("{{{{{}", "(".repeat(100_000)));
    let _ = Template::new(&format!("{{{{if 1}}}}{}{{{{end}}}}", "{{else if 1}}".repeat(100_000)));
}

#[test]
fn no_arguments_make_a_function_panic() {
    let values = [
        "null",
        "true",
        "-1",
        "9223372036854775807",
        "2.5",
        "1e300",
        "\"\"",
        "\"aé\"",
        "[]",
        "[1,\"a\",null]",
        "{}",
        "{\"a\":{\"b\":1}}",
    ];
    let values: Vec<Value> =
        values.iter().map(|text| json::parse(text).expect("JSON")).map(|v| json::expand(&v).into_owned()).collect();
    for function in functions::all() {
        let _ = function.call(&[]);
        for first in &values {
            let _ = function.call(std::slice::from_ref(first));
            for second in &values {
                let _ = function.call(&[first.clone(), second.clone()]);
                for third in &values {
                    let _ = function.call(&[first.clone(), second.clone(), third.clone()]);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_template_panics(parts in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", "{{-", "-}}", " ", ".", ".a", "$", "$x", ":=", "=", "|", "(", ")", "if", "else", "end", "range", "with",
        "define", "template", "block", "\"t\"", "1", "-2.5e3", "'a'", "`r`", "index", "printf", "\"%d\"", "eq", "and", "/*", "*/",
        ",", "break", "text", "\n", "é", "\\", "list", "dict", "json",
    ]), 0..40)) {
        let _ = run(&parts.concat(), DATA);
    }

    #[test]
    fn printf_takes_any_format(format in "%[-+# 0]*[0-9]{0,3}(\\.[0-9]{0,2})?[a-zA-Z%]|.{0,10}", number in any::<i64>(), float in any::<f64>()) {
        let _ = print::printf(&format, &[Value::Int(number), Value::Float(float), Value::from("x"), Value::Null]);
    }
}
