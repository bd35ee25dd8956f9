//! Whatever a guest sends, nothing panics, and what comes out is in range. `PROPTEST_CASES` says how many inputs each
//! property is tried with.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::Config;
use serde_json::Value;
use vm_guest::console::Console;
use vm_guest::decode::{self, Lines};
use vmtest_agent::{Ended, Event, OUTPUT_LIMIT, PIECE, TestResult};

fn config() -> Config {
    let given = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { 2000 };
    Config { cases, failure_persistence: None, ..given }
}

/// Numbers at the ends of every type, and what JSON has of others.
fn number() -> impl Strategy<Value = Value> {
    let whole = [i32::MIN.into(), i32::MAX.into(), i64::MIN].map(Value::from);
    let others = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -0.0].map(Value::from);
    let ends = [&whole[..], &others[..], &[u64::MAX.into(), Value::Null]].concat();
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-300_i32..300).prop_map(Value::from),
        select(ends),
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

/// Messages, in JSON.
fn event() -> impl Strategy<Value = String> {
    // Any number stands for a #, and any text for a $.
    let results = [
        r#""passed""#,
        r#""timed-out""#,
        r##"{"failed":{"code":#}}"##,
        r##"{"killed":{"signal":#}}"##,
        r#"{"not-started":{"reason":$}}"#,
    ];
    let finished = results.map(|result| {
        let test = r#""test":{"binary":$,"name":$}"#;
        let rest = r##""attempts":#,"seconds":#,"output":$,"dropped_bytes":#"##;
        format!(r#"{{"test-finished":{{{test},"result":{result},{rest}}}}}"#)
    });
    let program = r##"{"name":$,"verified_insns":#,"xlated_bytes":#,"event_ns":#,"events":#}"##;
    let facts = format!(r##"{{"facts":{{"btf":null,"jit":false,"load_s":#,"programs":[{program},{program}]}}}}"##);
    let others = [
        r##"{"ready":{"protocol":#,"release":$,"uptime_s":#}}"##,
        r##"{"tainted":{"flags":#}}"##,
        r##"{"facts":{"btf":true,"jit":null,"load_s":#,"programs":[]}}"##,
        &facts,
        r#"{"failed":{"reason":$}}"#,
        r#"{"stdout":$}"#,
        r##"{"ended":{"exited":{"code":#}}}"##,
        r##"{"ended":{"killed":{"signal":#}}}"##,
        r#""finished""#,
    ];
    let events = finished.into_iter().chain(others.map(str::to_owned)).collect::<Vec<_>>();
    (select(events), vec(number(), 9), vec(text(), 4)).prop_map(|(event, mut numbers, mut texts)| {
        let filled = event.chars().map(|c| match c {
            '#' => numbers.pop().unwrap().to_string(),
            '$' => Value::from(texts.pop().unwrap()).to_string(),
            other => other.into(),
        });
        filled.collect()
    })
}

/// What a kernel prints, what looks like it, and anything.
fn console() -> impl Strategy<Value = Vec<u8>> {
    let short = ["[", "]", "<4>", "\n", "\r\n", "\x1b[2J", "BUG: ", "Oops: ", "ä", "\0"];
    let long = [
        "[    1.902338] ",
        "[ 12.3][ T1] ",
        "Kernel panic - not syncing: ",
        "---[ end Kernel panic",
        "WARNING: CPU: 0 PID: 1 at ",
        "WARNING: kernel/a.c:1 at f",
        "------------[ cut here ]------------",
        "watchdogd[12]: ",
        "INFO: task ",
    ];
    let words = select([&short[..], &long].concat()).prop_map(|words| words.as_bytes().to_vec());
    let piece = prop_oneof![4 => words, 1 => vec(any::<u8>(), 0..40), 1 => Just(vec![b'x'; 5000])];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn fed(pieces: &[&[u8]]) -> Console {
    let mut console = Console::default();
    pieces.iter().for_each(|piece| console.feed(piece));
    console.feed(b"\n");
    console
}

fn is_a_time(seconds: f64) -> bool {
    seconds.is_finite() && (0.0..1.9e19).contains(&seconds)
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
        Ok(Event::Facts(facts)) => {
            let times = facts.programs.iter().map(|program| program.event_ns).chain([facts.load_s]);
            assert!(times.flatten().all(is_a_time));
        }
        Ok(Event::Ended(Ended::Exited { code })) => assert!((0..=255).contains(&code)),
        Ok(Event::Ended(Ended::Killed { signal })) => assert!((1..=64).contains(&signal)),
        Ok(Event::Stdout(piece)) => assert!(piece.0.len() <= PIECE),
        Ok(_) => {}
        Err(malformed) => assert!(malformed.to_string().len() < 2000),
    }
    let _ = decode::ready(line);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_console_in_pieces_is_the_console_as_a_whole(
        bytes in console(),
        cuts in vec(any::<Index>(), 0..20),
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
    fn overlong_line_is_malformed_once_partial_line_is_none(
        bytes in vec(prop_oneof![any::<u8>(), Just(b'\n')], 0..60),
        long in select(vec![0, 5000, 20_000]),
        limit in 0_usize..10,
    ) {
        let bytes = [vec![b'x'; long], bytes].concat();
        let mut lines = Lines::new(&bytes[..], limit);
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            seen.push(line.map(<[u8]>::to_vec).ok());
        }
        let expected = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| match line.strip_suffix(b"\n") {
            Some(whole) if whole.len() <= limit => Some(Some(whole.to_vec())),
            _ => (line.len() > limit).then_some(None),
        });
        prop_assert_eq!(seen, expected.collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_bytes_decode_to_event_or_malformed(
        bytes in vec(any::<u8>(), 0..400),
        event in event(),
        cut in any::<Index>(),
        changes in vec(any::<(Index, u8)>(), 0..4),
    ) {
        check_event(&bytes);
        let mut line = format!(r#"{{"token":"secret","event":{event}}}"#).into_bytes();
        check_event(&line);
        let whole = line.len();
        for (at, byte) in &changes {
            line[at.index(whole)] = *byte;
        }
        line.truncate(cut.index(whole + 1));
        check_event(&line);
        if changes.is_empty() && line.len() < whole {
            prop_assert!(decode::event(&line, "secret").is_err());
        }
    }
}
