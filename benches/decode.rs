//! The cost of reading and writing JSON, compared with serde_json: a telemetry message of some 200 bytes and one of 16
//! KB.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plutino::format::json::{self, Scanner, Wanted};
use plutino::value::{Text, Value};

const TELEMETRY: &str = concat!(
    r#"{"device":"sensor-0042","site":"plant-7/hall-3","seq":1048577,"ts":1763697600123,"temperature":23.4375,"#,
    r#""humidity":41.25,"ok":true,"status":"running within limits","note":null,"pos":{"lat":52.5163,"lon":13.3777}}"#
);

fn scanner(keys: &[&str]) -> Scanner {
    Scanner::new(Wanted::new(keys.iter().map(Text::new)))
}

/// About 16 KB: a series of readings, a list of small arrays, objects with text, and one long text.
fn large() -> String {
    let number = |i: usize| (i * 7919 % 100_000) as f64 / 100.0;
    let series: Vec<String> = (0..800).map(|i| number(i).to_string()).collect();
    let pairs: Vec<String> = (0..150).map(|i| format!("[{},{}]", i, number(i))).collect();
    let events: Vec<String> = (0..60)
        .map(|i| format!(r#"{{"id":{i},"level":"info","text":"valve {i} moved to {} percent"}}"#, i % 100))
        .collect();
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(60);
    format!(
        r#"{{"device":"sensor-0042","series":[{}],"pairs":[{}],"events":[{}],"text":"{text}","value":42.5}}"#,
        series.join(","),
        pairs.join(","),
        events.join(",")
    )
}

fn decode(c: &mut Criterion) {
    let keys = ["device", "site", "seq", "ts", "temperature", "humidity", "ok", "status", "note", "pos"];
    let mut group = c.benchmark_group("telemetry");
    group.throughput(Throughput::Bytes(TELEMETRY.len() as u64));
    for (name, keys) in [("one", &["temperature"][..]), ("three", &["device", "temperature", "status"]), ("all", &keys)]
    {
        let mut scanner = scanner(keys);
        let columns = keys.len();
        group.bench_function(name, |b| {
            b.iter(|| {
                let text = black_box(TELEMETRY);
                scanner.scan(text, |_, spans| {
                    for column in 0..columns {
                        black_box(spans.span(column).map(|span| json::value(&text[span])));
                    }
                })
            })
        });
    }
    group.bench_function("parse", |b| b.iter(|| json::parse(black_box(TELEMETRY))));
    group.bench_function("utf8", |b| b.iter(|| std::str::from_utf8(black_box(TELEMETRY.as_bytes()))));
    group.bench_function("serde_json value", |b| {
        b.iter(|| serde_json::from_str::<serde_json::Value>(black_box(TELEMETRY)))
    });
    #[derive(serde::Deserialize)]
    struct One {
        temperature: f64,
    }
    group.bench_function("serde_json one", |b| {
        b.iter(|| serde_json::from_str::<One>(black_box(TELEMETRY)).map(|one| one.temperature))
    });
    group.finish();

    let large = large();
    let mut group = c.benchmark_group("large");
    group.throughput(Throughput::Bytes(large.len() as u64));
    let mut one = scanner(&["value"]);
    group.bench_function("one", |b| {
        b.iter(|| {
            one.scan(black_box(&large), |_, spans| {
                black_box(spans.span(0));
            })
        })
    });
    group.bench_function("utf8", |b| b.iter(|| std::str::from_utf8(black_box(large.as_bytes()))));
    group.bench_function("serde_json ignored", |b| {
        b.iter(|| serde_json::from_str::<serde::de::IgnoredAny>(black_box(&large)))
    });
    group.finish();

    for (name, member) in [("series", "series"), ("pairs", "pairs"), ("events", "events"), ("text", "text")] {
        let part = json::member(&Value::Json(large.as_str().into()), member);
        let mut text = br#"{"a":"#.to_vec();
        json::write_value(&mut text, &part).expect("the message has no NaN");
        text.push(b'}');
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        let mut group = c.benchmark_group("part");
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut one = scanner(&["value"]);
        group.bench_function(name, |b| b.iter(|| one.scan(black_box(&text), |_, _| ())));
        group.finish();
    }
}

fn encode(c: &mut Criterion) {
    let row = [
        ("device", Value::from("sensor-0042")),
        ("temperature", Value::from(23.4375)),
        ("seq", Value::from(1_048_577_i64)),
    ];
    let mut out = Vec::with_capacity(1024);
    c.bench_function("encode three columns", |b| {
        b.iter(|| {
            out.clear();
            for (i, (key, value)) in black_box(&row).iter().enumerate() {
                out.push(if i == 0 { b'{' } else { b',' });
                json::write_key(&mut out, key);
                out.push(b':');
                json::write_value(&mut out, value)?;
            }
            out.push(b'}');
            black_box(&out);
            Ok::<_, json::EncodeError>(())
        })
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
        .without_plots();
    targets = decode, encode
}
criterion_main!(benches);
