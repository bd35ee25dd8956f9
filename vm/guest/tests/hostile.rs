//! Whatever a guest sends, nothing panics, and what comes out is in range. `PROPTEST_CASES` says how many inputs each
//! property is tried with.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use vm_guest::console::Console;
use vm_guest::decode::{self, Lines};
use vmtest_agent::{Ended, Event, Facts, OUTPUT_LIMIT, TestResult};

fn config() -> Config {
    let given = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { 2000 };
    Config { cases, failure_persistence: None, ..given }
}

/// Numbers at the ends of every type, and what JSON has of others.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-300_i32..300).prop_map(Value::from),
        proptest::sample::select(vec![
            json!(i32::MIN),
            json!(i32::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(f64::MAX),
            json!(f64::MIN),
            json!(f64::MIN_POSITIVE),
            json!(-0.0),
            Value::Null,
        ]),
    ]
}

/// Any characters, now and then more of them than are kept.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        19 => any::<String>(),
        1 => (any::<char>(), OUTPUT_LIMIT / 4..OUTPUT_LIMIT + 9)
            .prop_map(|(char, count)| String::from(char).repeat(count)),
    ]
}

fn result() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("passed")),
        Just(json!("timed-out")),
        number().prop_map(|code| json!({ "failed": { "code": code } })),
        number().prop_map(|signal| json!({ "killed": { "signal": signal } })),
        text().prop_map(|reason| json!({ "not-started": { "reason": reason } })),
    ]
}

fn facts() -> impl Strategy<Value = Value> {
    let program = (text(), number(), number(), number(), number()).prop_map(
        |(name, insns, bytes, ns, events)| {
            json!({ "name": name, "verified_insns": insns, "xlated_bytes": bytes, "event_ns": ns, "events": events })
        },
    );
    (number(), any::<Option<bool>>(), vec(program, 0..3)).prop_map(|(load_s, btf, programs)| {
        json!({ "facts": { "btf": btf, "jit": btf, "load_s": load_s, "programs": programs } })
    })
}

fn event() -> impl Strategy<Value = Value> {
    let test = (text(), text()).prop_map(|(binary, name)| json!({ "binary": binary, "name": name }));
    prop_oneof![
        (number(), text(), number()).prop_map(|(protocol, release, uptime)| {
            json!({ "ready": { "protocol": protocol, "release": release, "uptime_s": uptime } })
        }),
        (test, result(), number(), text(), number()).prop_map(
            |(test, result, seconds, output, dropped)| {
                json!({ "test-finished": {
                    "test": test, "result": result, "attempts": 1, "seconds": seconds, "output": output, "dropped_bytes": dropped,
                } })
            }
        ),
        number().prop_map(|flags| json!({ "tainted": { "flags": flags } })),
        facts(),
        text().prop_map(|reason| json!({ "failed": { "reason": reason } })),
        text().prop_map(|piece| json!({ "stdout": piece })),
        number().prop_map(|code| json!({ "ended": { "exited": { "code": code } } })),
        number().prop_map(|signal| json!({ "ended": { "killed": { "signal": signal } } })),
        Just(json!("finished")),
    ]
}

/// What a kernel prints, what looks like it, and anything.
fn console() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::sample::select(vec![
        "[    1.902338] ",
        "[ 12.3][ T1] ",
        "[",
        "]",
        "<4>",
        "\n",
        "\r\n",
        "\x1b[2J",
        "Kernel panic - not syncing: ",
        "---[ end Kernel panic",
        "WARNING: CPU: 0 PID: 1 at ",
        "WARNING: kernel/a.c:1 at f",
        "BUG: ",
        "Oops: ",
        "------------[ cut here ]------------",
        "watchdogd[12]: ",
        "INFO: task ",
        "ä",
        "\0",
    ])
    .prop_map(|words| words.as_bytes().to_vec());
    let piece = prop_oneof![4 => words, 1 => vec(any::<u8>(), 0..40), 1 => Just(vec![b'x'; 5000])];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn fed(pieces: &[&[u8]]) -> Console {
    let mut console = Console::default();
    pieces.iter().for_each(|piece| console.feed(piece));
    console.finish();
    console
}

fn is_a_time(seconds: f64) -> bool {
    seconds.is_finite() && (0.0..1.9e19).contains(&seconds)
}

fn check_facts(facts: &Facts) {
    assert!(facts.load_s.is_none_or(is_a_time));
    assert!(facts.programs.iter().all(|program| program.event_ns.is_none_or(is_a_time)));
}

/// What is decoded is in range, or it was not decoded.
fn check_event(line: &[u8]) {
    match decode::event(line, "secret") {
        Ok(Event::TestFinished(outcome)) => {
            assert!(is_a_time(outcome.seconds) && outcome.output.len() <= OUTPUT_LIMIT);
            match outcome.result {
                TestResult::Failed { code } => assert!((1..=255).contains(&code)),
                TestResult::Killed { signal } => assert!((1..=64).contains(&signal)),
                _ => {}
            }
        }
        Ok(Event::Ready(ready)) => assert!(is_a_time(ready.uptime_s)),
        Ok(Event::Facts(facts)) => check_facts(&facts),
        Ok(Event::Ended(Ended::Exited { code })) => assert!((0..=255).contains(&code)),
        Ok(Event::Ended(Ended::Killed { signal })) => assert!((1..=64).contains(&signal)),
        Ok(Event::Stdout(piece)) => drop(decode::bytes(&piece)),
        Ok(_) => {}
        Err(malformed) => assert!(malformed.to_string().len() < 2000),
    }
    let _ = decode::ready(line);
}

fn framed(event: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({ "token": "secret", "event": event })).unwrap()
}

/// A frame cut short, or with some bytes of it changed.
fn damage(line: &mut Vec<u8>, cut: proptest::sample::Index, changes: &[(proptest::sample::Index, u8)]) {
    for (at, byte) in changes {
        let at = at.index(line.len());
        line[at] = *byte;
    }
    line.truncate(cut.index(line.len() + 1));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_console_in_pieces_is_the_console_as_a_whole(
        bytes in console(),
        cuts in vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[start..cut]);
            start = cut;
        }
        prop_assert_eq!(fed(&pieces), fed(&[&bytes]));
    }

    #[test]
    fn any_bytes_are_lines_within_the_limit(bytes in vec(any::<u8>(), 0..400), limit in 0_usize..60) {
        let mut lines = Lines::new(&bytes[..], limit);
        let mut whole = 0;
        while let Some(line) = lines.next_line().unwrap() {
            if let Ok(line) = line {
                prop_assert!(line.len() <= limit && !line.contains(&b'\n'));
                whole += 1;
            }
        }
        let short = bytes.split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n") && line.len() <= limit + 1);
        prop_assert_eq!(whole, short.count());
    }

    #[test]
    fn any_bytes_are_an_event_or_malformed(bytes in vec(any::<u8>(), 0..400)) {
        check_event(&bytes);
    }

    #[test]
    fn a_frame_with_any_values_is_an_event_in_range_or_malformed(event in event()) {
        check_event(&framed(&event));
    }

    #[test]
    fn a_damaged_frame_is_an_event_in_range_or_malformed(
        event in event(),
        cut in any::<proptest::sample::Index>(),
        changes in vec(any::<(proptest::sample::Index, u8)>(), 0..4),
    ) {
        let mut line = framed(&event);
        let whole = line.len();
        damage(&mut line, cut, &changes);
        check_event(&line);
        if changes.is_empty() && line.len() < whole {
            prop_assert!(decode::event(&line, "secret").is_err());
        }
    }
}
