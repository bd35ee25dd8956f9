//! Downloading one file: with resume, with a deadline for silence instead of one for the whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};
use url::Url;

use super::progress::Progress;

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long reaching a server may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How often a broken transfer is resumed: as long as each attempt gets further, at most this often.
const MAX_ATTEMPTS: u32 = 20;
/// How often an address is tried again that gave nothing new.
const MAX_FRUITLESS: u32 = 3;
/// No kernel package is larger than this.
const MAX_SIZE: u64 = 2 << 30;

/// Where a file can be downloaded.
#[derive(Debug, Clone)]
pub struct Address {
    /// `http`, `https` or `file`; an `https` address may not redirect to anything else.
    pub url: Url,
    /// A proxy to go through, instead of the one that the environment names.
    pub proxy: Option<String>,
}

/// Why an address, or a source, did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another one may do: what went wrong, once for each address that was tried.
    #[error("{}", .0.join("\n  "))]
    Remote(Vec<String>),
    /// No other one will do either, as when this machine's disk is full.
    #[error(transparent)]
    Local(#[from] anyhow::Error),
}

impl Failure {
    /// One thing that went wrong at the other side.
    pub fn there(why: impl ToString) -> Self {
        Self::Remote(vec![why.to_string()])
    }
}

/// Downloads into `part`; what is there already is taken as the file's beginning. What is transient is tried again.
///
/// Whether it is the right file is for the caller to find out.
pub fn download(address: &Address, part: &Path, progress: &dyn Progress) -> Result<(), Failure> {
    if address.url.scheme() == "file" {
        return copy(address, part);
    }
    let agent = agent(address)?;
    let (mut attempt, mut fruitless) = (0, 0);
    loop {
        attempt += 1;
        let before = size_of(part);
        let Some(message) = transfer(&agent, address, part, progress)? else { return Ok(()) };
        let after = size_of(part);
        fruitless = if after > before { 0 } else { fruitless + 1 };
        if fruitless == MAX_FRUITLESS || attempt == MAX_ATTEMPTS {
            return Err(Failure::there(format!("{message} (tried {attempt} times)")));
        }
        progress.note(&format!("{message} after {after} bytes; resuming"));
        // A server that gave something is asked at once, one that did not gets time to come back.
        std::thread::sleep(Duration::from_millis(200) * fruitless);
    }
}

/// A mirror in a directory, or a pinned file of the user's own.
fn copy(address: &Address, part: &Path) -> Result<(), Failure> {
    let path = address.url.to_file_path().map_err(|()| Failure::there("it is no path on this machine"))?;
    let mut from = File::open(path).map_err(Failure::there)?;
    let copied = File::create(part).and_then(|mut to| io::copy(&mut from, &mut to));
    copied.with_context(|| cannot_write(part))?;
    Ok(())
}

fn cannot_write(part: &Path) -> String {
    format!("cannot write {}", part.display())
}

fn size_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn agent(address: &Address) -> anyhow::Result<Agent> {
    let mut config = Agent::config_builder()
        .https_only(address.url.scheme() == "https")
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .user_agent(concat!("cargo-kernels/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(root_certificates()).build());
    if let Some(proxy) = &address.proxy {
        let proxy = Proxy::new(proxy).with_context(|| format!("unusable proxy {proxy:?}"))?;
        config = config.proxy(Some(proxy));
    }
    Ok(config.build().new_agent())
}

/// What this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` included), or Mozilla's list if it has none.
fn root_certificates() -> RootCerts {
    static ROOTS: OnceLock<RootCerts> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return RootCerts::WebPki;
        }
        found.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>().into()
    };
    ROOTS.get_or_init(load).clone()
}

/// Gets what is missing of `part`; if that is worth another try, says why it is not all here.
fn transfer(agent: &Agent, address: &Address, part: &Path, progress: &dyn Progress) -> Result<Option<String>, Failure> {
    let have = size_of(part);
    let mut request = agent.get(address.url.as_str()).header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => return explain(error),
    };
    let start = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        StatusCode::PARTIAL_CONTENT => return Err(Failure::there("it sent another range")),
        // There is nothing after what is here: either that is all of it, or it is not this file's beginning.
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => return Ok(None),
        status if is_passing(status) => return Ok(Some(status.to_string())),
        status => return Err(Failure::there(status)),
    };
    let mut file = File::options().create(true).append(true).open(part).with_context(|| cannot_write(part))?;
    file.set_len(start).with_context(|| cannot_write(part))?;
    // Both count from the start of the file.
    let (mut done, total) = (start, response.body().content_length().map(|left| start.saturating_add(left)));
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        progress.bytes(done, total);
        if done.max(total.unwrap_or(0)) > MAX_SIZE {
            return Err(Failure::there("it is larger than any kernel package"));
        }
        match body.read(&mut buffer) {
            Ok(0) if total.is_some_and(|total| done < total) => {
                return Ok(Some("the connection broke off".to_owned()));
            }
            Ok(0) => return Ok(None),
            Ok(count) => {
                file.write_all(&buffer[..count]).with_context(|| cannot_write(part))?;
                done += count as u64;
            }
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
}

/// Where a `Content-Range: bytes 100-199/200` starts.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS
}

fn explain(error: ureq::Error) -> Result<Option<String>, Failure> {
    match error {
        ureq::Error::RequireHttpsOnly(url) => {
            Err(Failure::there(format!("refused: it redirects to {url}, which leaves https")))
        }
        ureq::Error::Timeout(ureq::Timeout::Connect) => Err(Failure::there("it cannot be reached")),
        ureq::Error::Timeout(_) => Ok(Some("no answer".to_owned())),
        ureq::Error::Io(error) => Ok(Some(error.to_string())),
        other => Err(Failure::there(other)),
    }
}
