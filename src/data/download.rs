//! Downloads that go on where they stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Archive;
use crate::error::DataError;
use crate::files::try_lock;
use crate::observer::Observer;

/// A server that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// A server that sends fewer bytes a second is given up, once it had time to begin.
const LEAST_SPEED: f64 = 10e3;
const TIME_TO_BEGIN: Duration = Duration::from_secs(60);
/// After so many requests in a row that brought less than [`PROGRESS`] bytes each a download ends, and after one that brought nothing; the pauses between
/// them double.
const TRIES: u32 = 6;
const PROGRESS: u64 = 1 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl Archive {
    /// Downloads the archive to a `.part` file, unpacks it in `dir` and removes it.
    pub(super) fn download_and_unpack(&self, dir: &Path, observer: &dyn Observer) -> Result<PathBuf, DataError> {
        let new = !dir.exists();
        fs::create_dir_all(dir).map_err(DataError::io(dir))?;
        let part = dir.join(format!("{}.part", self.file));
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(&part).map_err(DataError::io(&part))?;
        if !try_lock(&file).map_err(DataError::io(&part))? {
            return Err(DataError::Busy { path: part });
        }
        let remove = || fs::remove_file(&part).map_err(DataError::io(&part));
        // A full disk may have left the whole of it, which needs no server any more.
        let whole = file.metadata().is_ok_and(|part| part.len() > 0) && self.verify(&mut file, &part, "").is_ok();
        if !whole {
            let downloaded = self.download(&mut file, &part, dir, observer);
            if downloaded.is_err() && file.metadata().is_ok_and(|part| part.len() == 0) {
                remove()?;
                if new {
                    // It stays where somebody else has put something into it.
                    let _ = fs::remove_dir(dir);
                }
            }
            downloaded?;
            let advice = "it was removed: run again, or take it from another address with --data-url";
            if let Err(error) = self.verify(&mut file, &part, advice) {
                remove()?;
                return Err(error);
            }
        }
        // A failure, such as a full disk, leaves the download for the next call.
        let unpacked = self.unpack(&mut file, &part, dir)?;
        remove()?;
        Ok(unpacked)
    }

    /// Fetches what `file` lacks, in several tries as long as each brings it further.
    fn download(&self, file: &mut File, path: &Path, dir: &Path, observer: &dyn Observer) -> Result<(), DataError> {
        let (mut reached, mut poor_tries) = (0, 0);
        loop {
            let attempt = self.fetch(file, observer);
            observer.ends(None);
            let length = file.metadata().map_err(DataError::io(path))?.len();
            match attempt {
                Ok(()) => break,
                Err(Interruption::File(source)) => return Err(DataError::io(path)(source)),
                Err(Interruption::Server(_)) if length > reached && poor_tries + 1 < TRIES => {
                    std::thread::sleep(FIRST_PAUSE * 2u32.pow(poor_tries));
                    poor_tries = if length - reached < PROGRESS { poor_tries + 1 } else { 0 };
                    reached = length;
                }
                Err(Interruption::Server(reason)) if length > 0 => {
                    let reason = format!("{reason}, after {length} bytes (run again to go on from there)");
                    return Err(self.not_downloaded(dir, reason));
                }
                Err(Interruption::Server(reason)) => return Err(self.not_downloaded(dir, reason)),
            }
        }
        Ok(())
    }

    /// Asks for the bytes behind the first `have`.
    fn request(&self, have: u64) -> Result<ureq::http::Response<ureq::Body>, Interruption> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .new_agent();
        let mut request = agent.get(&self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        request.call().map_err(|error| Interruption::Server(error.to_string()))
    }

    /// One request for the bytes behind those in `file`.
    fn fetch(&self, file: &mut File, observer: &dyn Observer) -> Result<(), Interruption> {
        let mut have = file.metadata()?.len();
        let response = self.request(have)?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 => {
                file.set_len(0)?;
                have = 0;
            }
            206 if header("Content-Range").is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) => {}
            206 => return Err(Interruption::Server("it answered with another part of the file".into())),
            // Nothing lies behind what is here; the checksum decides whether that is all.
            416 if have > 0 => return Ok(()),
            status => {
                return Err(Interruption::Server(format!("the server answered with status {status}")));
            }
        }
        let rest: Option<u64> = header("Content-Length").and_then(|length| length.parse().ok());
        let total = rest.map(|rest| have.saturating_add(rest));
        let (started, before) = (Instant::now(), have);
        let title = format!("{}, MB", self.file);
        // A server that doesn't say how much there is leaves the end open.
        observer.begins(&title, total.map_or(0, megabytes), megabytes(have));
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Interruption::Server(error.to_string())),
            };
            if have + read as u64 > self.max_bytes {
                file.set_len(0)?;
                return Err(Interruption::Server(format!(
                    "it sends more than the {} bytes of the archive",
                    self.max_bytes
                )));
            }
            file.write_all(&buffer[..read])?;
            have += read as u64;
            if is_too_slow(have - before, started.elapsed()) {
                return Err(Interruption::Server(format!("it sends less than {:.0} kB/s", LEAST_SPEED / 1e3)));
            }
            let rate = || {
                let bytes = (have - before) as f64 / started.elapsed().as_secs_f64();
                format!("{:.1} MB/s", bytes / 1e6)
            };
            observer.advances(megabytes(have), &rate);
        }
        match total {
            Some(total) if have < total => Err(Interruption::Server(format!("it ended after {have} of {total} bytes"))),
            _ => Ok(()),
        }
    }
}

/// Why a request ended before its end.
enum Interruption {
    /// The file could not be written: another attempt won't help.
    File(io::Error),
    /// The server or the line to it failed.
    Server(String),
}

impl From<io::Error> for Interruption {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

fn is_too_slow(bytes: u64, time: Duration) -> bool {
    time > TIME_TO_BEGIN && (bytes as f64) < LEAST_SPEED * time.as_secs_f64()
}

fn megabytes(bytes: u64) -> usize {
    usize::try_from(bytes / 1_000_000).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_too_slow_and_a_slow_start_is_not() {
        assert!(!is_too_slow(0, Duration::from_secs(59)));
        assert!(is_too_slow(500_000, Duration::from_secs(61)));
        assert!(!is_too_slow(700_000, Duration::from_secs(61)));
    }
}
