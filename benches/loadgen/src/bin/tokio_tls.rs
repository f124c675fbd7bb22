//! A TLS server in Rust on tokio and rustls, without Python: the limit for a Python loop.
//!
//! Started by benches/run.py like `tls_server.py` and with the same manners and modes: one thread, a
//! JSON object with the port as first line of output, and it ends when its standard input does.
//!
//! Usage: tokio-tls echo|download FOLDER

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, thread};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot::{self, Receiver};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes asked for in one read; as `server.py`'s.
const READ_SIZE: usize = 64 * 1024;

/// How often the alphabet is in one write of a download; as in `tls_server.py`'s.
const ALPHABETS: usize = 10_000;

/// What the server does on a connection.
#[derive(Clone, Copy)]
enum Mode {
    Echo,
    Download,
}

fn main() -> io::Result<()> {
    let (mode, folder) = arguments()?;
    let acceptor = TlsAcceptor::from(Arc::new(config(&folder)?));
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(io::stdout(), r#"{{"port": {}}}"#, listener.local_addr()?.port())?;
        spawn_local(serve(listener, acceptor, mode));
        // An error means that the watching thread is gone, which is an end as well.
        end_of_input().await.or(Ok(()))
    })
}

fn arguments() -> io::Result<(Mode, PathBuf)> {
    let mut arguments = env::args_os().skip(1);
    let mode = match arguments.next().as_deref().and_then(|mode| mode.to_str()) {
        Some("echo") => Mode::Echo,
        Some("download") => Mode::Download,
        _ => return Err(Error::other("the first argument is echo or download")),
    };
    let folder =
        arguments.next().ok_or(Error::other("the folder of the certificate is missing"))?;
    Ok((mode, folder.into()))
}

/// What Python's servers have: the versions and ciphers that the library chooses, and tickets.
fn config(folder: &Path) -> io::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(folder.join("certificate.pem"))
        .and_then(Iterator::collect)
        .map_err(Error::other)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).map_err(Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Error::other)?;
    config.ticketer = Ticketer::new().map_err(Error::other)?;
    Ok(config)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, mode: Mode) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn_local(report_failure(stream, acceptor.clone(), mode)),
            Err(error) => return eprintln!("tokio-tls: accepting: {error}"),
        };
    }
}

async fn report_failure(stream: TcpStream, acceptor: TlsAcceptor, mode: Mode) {
    if let Err(error) = converse(stream, acceptor, mode).await {
        eprintln!("tokio-tls: {error}");
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, mode: Mode) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    match mode {
        Mode::Echo => echo(&mut stream).await?,
        Mode::Download => send_downloads(&mut stream).await?,
    }
    // The client need not wait for the answer to its close notification.
    match stream.shutdown().await {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotConnected | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

async fn echo(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
    }
}

/// Sends the alphabet again and again, as many bytes as each request of 8 bytes asks for.
async fn send_downloads(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let alphabets: Vec<u8> = (b'a'..=b'z').collect::<Vec<u8>>().repeat(ALPHABETS);
    loop {
        let length = match stream.read_u64().await {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            length => length?,
        };
        let mut sent = 0;
        while sent < length {
            let left = usize::try_from(length - sent).unwrap_or(usize::MAX);
            let now = &alphabets[..alphabets.len().min(left)];
            stream.write_all(now).await?;
            sent += now.len() as u64;
        }
        stream.flush().await?;
    }
}

/// Returns what becomes ready when standard input ends or fails.
fn end_of_input() -> Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|length| length > 0) {}
        drop(sender);
    });
    receiver
}
