//! What can go wrong between here and a server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use crate::sandbox::Sandbox;
use crate::server::{Answer, Server};
use vm_kernels::digest::sha256;
use vm_kernels::fake;

/// A server with one image at `/bzImage`, and a sandbox that pins it.
fn pinned(answer: impl FnOnce(Vec<u8>) -> Answer) -> (Arc<Server>, Sandbox, Vec<u8>) {
    let image = fake::bzimage("6.1.9-test", None);
    let (server, sandbox) = Sandbox::serving("/bzImage", &image);
    server.at("/bzImage", answer(image.clone()));
    (server, sandbox, image)
}

/// Where the ranges start that were asked for.
fn starts(server: &Server) -> Vec<Option<usize>> {
    server.requests().into_iter().map(|request| request.start).collect()
}

fn assert_whole(sandbox: &Sandbox, image: &[u8]) {
    assert!(std::fs::read(sandbox.entry().join("tree/bzImage")).unwrap() == image);
}

#[test]
fn a_broken_transfer_is_taken_up_where_it_ended() {
    let (server, sandbox, image) = pinned(|bytes| Answer::Breaks { at: bytes.len() / 2, bytes, times: 1 });
    sandbox.run(&["fetch"], 0);
    assert_whole(&sandbox, &image);
    assert_eq!(starts(&server), [None, Some(image.len() / 2)]);
}

#[test]
fn failing_server_is_asked_three_times_wrong_file_once() {
    let corrupted = |mut image: Vec<u8>| {
        image[100_000] ^= 1;
        Answer::File(image)
    };
    let pinned_is = format!("pinned is {}", sha256(&fake::bzimage("6.1.9-test", None)));
    type Broken = fn(Vec<u8>) -> Answer;
    let cases: [(Broken, &str, usize); 3] = [
        (|bytes| Answer::Breaks { bytes, at: 0, times: usize::MAX }, "Peer disconnected (tried 3 times)", 3),
        (|_| Answer::Status("503 Service Unavailable".to_owned()), "503 Service Unavailable (tried 3 times)", 3),
        (corrupted, &pinned_is, 1),
    ];
    for (broken, finding, requests) in cases {
        let (server, sandbox, _) = pinned(broken);
        sandbox.says(&["fetch"], 3, finding);
        assert_eq!(server.requests().len(), requests);
        assert!(sandbox.entries().is_empty());
        assert!(sandbox.incoming().iter().all(|part| size(part) == 0), "what was refused is still there");
        assert!(requests > 1 || sandbox.incoming().is_empty(), "what is another file is still there");
    }
}

#[test]
fn what_an_earlier_fetch_left_is_taken_up_or_replaced() {
    let half: fn(Vec<u8>) -> Answer = |bytes| Answer::Breaks { bytes, at: 1000, times: usize::MAX };
    let (server, sandbox, image) = pinned(half);
    // What is left, and how the server answers then, what is said, and how often the server is asked.
    for (left, answer, told, requests) in [
        // All of it, so no network is needed.
        (image.clone(), half, "unpacking", 0),
        // A server without ranges: the whole must not be put behind the beginning.
        (image[..1000].to_vec(), Answer::WholeFile as fn(_) -> _, "unpacking", 1),
        // Other bytes, which the hash tells in the end; more than the file has, which the server does not accept.
        (vec![0; 5000], Answer::File, "fetching it anew", 2),
        (vec![0; image.len() + 1], Answer::File, "fetching it anew", 2),
    ] {
        server.at("/bzImage", half(image.clone()));
        let _ = std::fs::remove_dir_all(sandbox.cache());
        sandbox.run(&["fetch"], 3);
        std::fs::write(sandbox.incoming().pop().unwrap(), left).unwrap();
        server.at("/bzImage", answer(image.clone()));
        let before = server.requests().len();
        let said = sandbox.says(&["fetch"], 0, told);
        assert_whole(&sandbox, &image);
        assert_eq!(server.requests().len(), before + requests, "{said}");
    }
}

#[test]
fn two_fetches_at_once_download_once() {
    let (answer, gate) = Answer::held(fake::bzimage("6.1.9-test", None), 70_000);
    let (server, sandbox, image) = pinned(|_| answer);
    let first = sandbox.start(&["fetch"]);
    gate.wait();
    let mut second = sandbox.start(&["fetch"]);
    // The second says that it waits; only then does the first get the rest.
    let mut told = BufReader::new(second.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "6.1: another run is fetching it; waiting\n");
    gate.wait();
    assert!(first.wait_with_output().unwrap().status.success());
    assert!(second.wait_with_output().unwrap().status.success());
    assert_eq!(server.requests().len(), 1);
    assert_whole(&sandbox, &image);
}

#[test]
fn after_a_kill_the_rest_is_fetched() {
    let (answer, gate) = Answer::held(fake::bzimage("6.1.9-test", None), 70_000);
    let (server, sandbox, image) = pinned(|_| answer);
    let mut first = sandbox.start(&["fetch"]);
    gate.wait();
    wait_until(|| sandbox.incoming().first().is_some_and(|part| size(part) > 0));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(sandbox.entries().is_empty(), "half a kernel passes for one");
    let here = size(&sandbox.incoming()[0]);
    assert!(here < image.len());

    sandbox.run(&["fetch"], 0);
    assert_eq!(starts(&server), [None, Some(here)]);
    assert_whole(&sandbox, &image);
}

fn size(path: &Path) -> usize {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len() as usize)
}

/// Waits for what another process does to the disk, which nothing tells of.
pub fn wait_until(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}

#[test]
fn only_https_that_somebody_vouches_for_is_followed() {
    let (server, sandbox, image) = pinned(Answer::File);
    let sandbox = sandbox.trusting(&Server::https());
    sandbox.says(&["fetch"], 3, "certificate");
    assert!(server.requests().is_empty());

    let sandbox = sandbox.trusting(&server);
    let plain = Server::http();
    plain.at("/bzImage", Answer::File(image.clone()));
    server.at("/bzImage", Answer::redirect(&plain.url("/bzImage")));
    sandbox.says(&["fetch"], 3, "which leaves https");
    assert!(plain.requests().is_empty(), "it was asked all the same");
    assert!(sandbox.entries().is_empty());

    server.at("/bzImage", Answer::redirect("/elsewhere"));
    server.at("/elsewhere", Answer::File(image.clone()));
    sandbox.run(&["fetch"], 0);
    assert_whole(&sandbox, &image);
}
