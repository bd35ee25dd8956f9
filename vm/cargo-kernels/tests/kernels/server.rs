//! A server on loopback that can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a path answers.
pub enum Answer {
    /// The bytes, or what a `Range` asks for of them.
    File(Vec<u8>),
    /// The bytes, whatever is asked for.
    WholeFile(Vec<u8>),
    /// The bytes up to a point, then the connection is closed; the whole from the second request on.
    BreaksOnce { bytes: Vec<u8>, at: usize },
    /// The bytes up to a point at every request, then the connection is closed.
    AlwaysBreaks { bytes: Vec<u8>, at: usize },
    /// The bytes up to a point; the rest when the sender says so, or never. Later requests are answered in full.
    Held { bytes: Vec<u8>, at: usize, release: Mutex<Option<Receiver<()>>>, reached: Sender<()> },
    /// A redirect.
    Redirect(String),
    /// Only a status, such as `503 Service Unavailable`.
    Status(&'static str),
}

/// Answers whose rest the test lets go.
pub struct Gate {
    /// Hears when everything up to the point was sent.
    pub reached: Receiver<()>,
    /// Lets the rest go.
    pub release: Sender<()>,
}

/// An answer that waits at `at`.
pub fn held(bytes: Vec<u8>, at: usize) -> (Answer, Gate) {
    let (reached, reached_rx) = channel();
    let (release, release_rx) = channel();
    let answer = Answer::Held { bytes, at, release: Mutex::new(Some(release_rx)), reached };
    (answer, Gate { reached: reached_rx, release })
}

/// A request as it came: the path, and the `Range` header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
}

/// A running server; it ends with the test's process.
pub struct Server {
    scheme: &'static str,
    port: u16,
    shared: Arc<Shared>,
    /// What a client must trust to talk to it.
    pub certificate: Option<String>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Arc<Answer>>>,
    requests: Mutex<Vec<Request>>,
}

impl Server {
    pub fn http() -> Self {
        Self::start("http", None, None)
    }

    pub fn https() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self::start("https", Some(Arc::new(config)), Some(made.cert.pem()))
    }

    fn start(scheme: &'static str, tls: Option<Arc<ServerConfig>>, certificate: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tls) = (Arc::clone(&for_thread), tls.clone());
                std::thread::spawn(move || match tls {
                    None => shared.serve(stream),
                    Some(tls) => shared.serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream)),
                });
            }
        });
        Self { scheme, port, shared, certificate }
    }

    /// Sets what `path` (with its leading slash) answers.
    pub fn at(&self, path: &str, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), Arc::new(answer));
    }

    /// The address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

/// A connection, with or without TLS.
trait Connection: Read + Write {
    /// Ends it in a way that the client cannot take for the end of the file.
    fn break_off(self);
}

impl Connection for TcpStream {
    fn break_off(self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Connection for StreamOwned<ServerConnection, TcpStream> {
    fn break_off(self) {
        let _ = self.sock.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    fn serve(&self, stream: impl Connection) {
        let mut stream = BufReader::new(stream);
        let Some(request) = read_request(&mut stream) else { return };
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answers.lock().unwrap().get(&request.path).cloned();
        let mut stream = stream.into_inner();
        // A client that was killed takes its socket along: that is what some tests are about.
        let _ = self.answer(&mut stream, &request, answer.as_deref());
        stream.break_off();
    }

    fn answer(&self, stream: &mut impl Write, request: &Request, answer: Option<&Answer>) -> std::io::Result<()> {
        let count = self.requests.lock().unwrap().iter().filter(|r| r.path == request.path).count();
        match answer {
            None => send_status(stream, "404 Not Found", ""),
            Some(Answer::Status(status)) => send_status(stream, status, ""),
            Some(Answer::Redirect(to)) => send_status(stream, "302 Found", &format!("Location: {to}\r\n")),
            Some(Answer::File(bytes)) => send(stream, bytes, request, usize::MAX),
            Some(Answer::WholeFile(bytes)) => {
                send(stream, bytes, &Request { range: None, ..request.clone() }, usize::MAX)
            }
            Some(Answer::BreaksOnce { bytes, at }) => {
                send(stream, bytes, request, if count == 1 { *at } else { usize::MAX })
            }
            Some(Answer::AlwaysBreaks { bytes, at }) => send(stream, bytes, request, *at),
            Some(Answer::Held { bytes, at, release, reached }) => {
                let Some(release) = release.lock().unwrap().take() else {
                    return send(stream, bytes, request, usize::MAX);
                };
                send(stream, bytes, request, *at)?;
                let _ = reached.send(());
                match release.recv() {
                    Ok(()) => stream.write_all(&bytes[*at..]).and_then(|()| stream.flush()),
                    Err(_) => Ok(()),
                }
            }
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    stream.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut range = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some(Request { path, range });
        }
        if let Some(value) = line.to_lowercase().strip_prefix("range:") {
            range = Some(value.trim().to_owned());
        }
    }
}

fn send_status(stream: &mut impl Write, status: &str, headers: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()
}

/// Sends the file, or the part of it that was asked for, but no more than `most` bytes of the body.
fn send(stream: &mut impl Write, bytes: &[u8], request: &Request, most: usize) -> std::io::Result<()> {
    let start = request
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let body = match start {
        Some(start) if start >= bytes.len() => {
            return send_status(stream, "416 Range Not Satisfiable", "");
        }
        Some(start) => {
            let (end, all) = (bytes.len() - 1, bytes.len());
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{end}/{all}\r\n")?;
            &bytes[start..]
        }
        None => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            bytes
        }
    };
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body[..most.min(body.len())])?;
    stream.flush()
}
