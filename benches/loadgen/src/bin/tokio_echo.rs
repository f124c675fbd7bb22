//! An echo server in Rust on tokio, without Python: the limit for a Python loop on tokio.
//!
//! Started by benches/run.py like server.py and with the same manners: one thread, a JSON object
//! with the port as first line of output, and it ends when its standard input does. (SIGTERM has
//! its default action: there is nothing to clean up.)

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot::{self, Receiver};
use tokio::task::spawn_local;

/// Bytes asked for in one read; as server.py's.
const READ_SIZE: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(io::stdout(), r#"{{"port": {}}}"#, listener.local_addr()?.port())?;
        spawn_local(serve(listener));
        // An error means that the watching thread is gone, which is an end as well.
        end_of_input().await.or(Ok(()))
    })
}

async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn_local(report_failure(stream)),
            Err(error) => return eprintln!("tokio-echo: accepting: {error}"),
        };
    }
}

async fn report_failure(stream: TcpStream) {
    if let Err(error) = echo(stream).await {
        eprintln!("tokio-echo: {error}");
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
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
