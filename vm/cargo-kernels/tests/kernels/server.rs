//! A server on loopback that can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Barrier, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub enum Answer {
    /// The bytes, or what a `Range` asks for of them.
    File(Vec<u8>),
    /// The bytes, whatever is asked for.
    WholeFile(Vec<u8>),
    /// The bytes up to a point, then the connection is closed, so many times; after that as `File`.
    Breaks { bytes: Vec<u8>, at: usize, times: usize },
    /// At the first request the bytes up to a point; the rest when the gate was passed twice. After that as `File`.
    Held { bytes: Vec<u8>, at: usize, gate: Arc<Barrier> },
    /// A status such as `503 Service Unavailable`, and headers behind it, each in a line of its own.
    Status(String),
}

impl Answer {
    pub fn redirect(to: &str) -> Self {
        Self::Status(format!("302 Found\r\nLocation: {to}"))
    }

    /// An answer that is held at `at`, and its gate.
    pub fn held(bytes: Vec<u8>, at: usize) -> (Self, Arc<Barrier>) {
        let gate = Arc::new(Barrier::new(2));
        (Self::Held { bytes, at, gate: Arc::clone(&gate) }, gate)
    }
}

/// A request as it came: the path, and where the range starts that it asks for.
#[derive(Clone)]
pub struct Request {
    pub path: String,
    pub start: Option<usize>,
}

/// A running server; it ends with the test's process.
pub struct Server {
    /// Up to the path.
    address: String,
    /// What a client must trust to talk to it.
    pub certificate: Option<String>,
    answers: Mutex<HashMap<String, Arc<Answer>>>,
    requests: Mutex<Vec<Request>>,
}

impl Server {
    pub fn http() -> Arc<Self> {
        Self::start("http", None, None)
    }

    pub fn https() -> Arc<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (pem, certificates) = (made.cert.pem(), vec![made.cert.into()]);
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(certificates, made.signing_key.into()).unwrap();
        Self::start("https", Some(Arc::new(config)), Some(pem))
    }

    fn start(scheme: &'static str, tls: Option<Arc<ServerConfig>>, certificate: Option<String>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let server = Arc::new(Self { address, certificate, answers: Mutex::default(), requests: Mutex::default() });
        let running = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, tls) = (Arc::clone(&running), tls.clone());
                std::thread::spawn(move || {
                    let socket = stream.try_clone().unwrap();
                    match tls {
                        None => server.serve(stream),
                        Some(tls) => server.serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream)),
                    }
                    // Without a word of TLS's, so that the client cannot take it for the end of the file.
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        server
    }

    /// Sets what `path` (with its leading slash) answers.
    pub fn at(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), Arc::new(answer));
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let Some(request) = read_request(&mut stream) else { return };
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answers.lock().unwrap().get(&request.path).cloned();
        // A client that was killed takes its socket along: that is what some tests are about.
        let _ = self.answer(stream.get_mut(), &request, answer.as_deref());
    }

    fn answer(&self, stream: &mut impl Write, request: &Request, answer: Option<&Answer>) -> std::io::Result<()> {
        let count = self.requests.lock().unwrap().iter().filter(|r| r.path == request.path).count();
        match answer {
            None => respond(stream, "404 Not Found", b"", 0),
            Some(Answer::Status(status)) => respond(stream, status, b"", 0),
            Some(Answer::WholeFile(bytes)) => send(stream, bytes, None, usize::MAX),
            Some(Answer::Breaks { bytes, at, times }) if count <= *times => send(stream, bytes, request.start, *at),
            Some(Answer::Held { bytes, at, gate }) if count == 1 => {
                send(stream, bytes, None, *at)?;
                gate.wait();
                gate.wait();
                stream.write_all(&bytes[*at..])?;
                stream.flush()
            }
            Some(Answer::File(bytes) | Answer::Breaks { bytes, .. } | Answer::Held { bytes, .. }) => {
                send(stream, bytes, request.start, usize::MAX)
            }
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut lines = stream.lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let range = |line: String| line.to_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok();
    let start = lines.take_while(|line| !line.is_empty()).filter_map(range).last();
    Some(Request { path, start })
}

/// Sends the file, or what begins at `start` of it, but no more than `most` bytes of the body.
fn send(stream: &mut impl Write, bytes: &[u8], start: Option<usize>, most: usize) -> std::io::Result<()> {
    let all = bytes.len();
    match start {
        Some(start) if start >= all => respond(stream, "416 Range Not Satisfiable", b"", 0),
        Some(start) => {
            let status = format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{all}", all - 1);
            respond(stream, &status, &bytes[start..], most)
        }
        None => respond(stream, "200 OK", bytes, most),
    }
}

fn respond(stream: &mut impl Write, status: &str, body: &[u8], most: usize) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body[..most.min(body.len())])?;
    stream.flush()
}
