//! A file to which the secrets of TLS connections are logged, in the format of `SSLKEYLOGFILE`.
//!
//! Opened when a context is configured; connections of several threads may write to it.

use rloop_core::sync::Mutex;
use rloop_tls::config::KeyLog;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// The open file.
pub(crate) struct KeyLogFile {
    /// Guards the order of lines: each is written by one call.
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Opens a file to be appended to.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Writes a line. A file that cannot be written to is for debugging, and no reason to end a
    /// connection.
    fn write_or_ignore(&self, line: &str) {
        let _written = self.file.lock().write_all(line.as_bytes());
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyLogFile").finish_non_exhaustive()
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = String::from(label);
        for part in [client_random, secret] {
            line.push(' ');
            for byte in part {
                // Writing to a String cannot fail.
                let _written = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        self.write_or_ignore(&line);
    }
}
