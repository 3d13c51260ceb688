//! Every reader meets the files of its fuzz target's corpus: seeds, and what broke it once; and mutations of them.

#![cfg(feature = "train")]

mod common;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::Random;

/// A reader, the folder of its corpus, and whether its files hold a checksum.
type Reader = (&'static str, fn(&[u8]), bool);

const READERS: [Reader; 12] = [
    ("package", targets::package, true),
    ("checkpoint", targets::checkpoint, true),
    ("pytorch", targets::pytorch, false),
    ("onnx", targets::onnx, false),
    ("hardware", targets::hardware, false),
    ("recipe", targets::recipe, false),
    ("network", targets::network, false),
    ("npz", targets::npz, false),
    ("image", targets::image, false),
    ("idx", targets::idx, false),
    ("sweep", targets::sweep, false),
    ("experiment", targets::experiment, false),
];

/// The files of a corpus, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} has no files", folder.display());
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Each file as it is and cut off at every 64th of its length, which leaves no reader without a damaged file.
#[test]
fn corpora_are_read_or_refused() {
    for (name, read, _) in READERS {
        for bytes in corpus(name) {
            read(&bytes);
            (0..64).for_each(|part| read(&bytes[..bytes.len() * part / 64]));
        }
    }
}

/// How long a reader takes is for the long run: other work may be on the machine here.
#[test]
fn mutations_are_read_or_refused() {
    mutations(50, Duration::MAX);
}

/// `MARS_MUTATIONS` for each reader, 1,000 without it: `cargo test --release --test corpora -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes to hours"]
fn many_mutations_are_read_or_refused() {
    let count = std::env::var("MARS_MUTATIONS").map_or(1_000, |count| count.parse().unwrap());
    mutations(count, Duration::from_secs(10));
}

/// Reads so many mutations with each reader: none panics, takes as long as `limit`, or needs more than 256 MiB and 20 times the file.
fn mutations(count: usize, limit: Duration) {
    for (name, read, sealed) in READERS {
        let corpus = corpus(name);
        let mut random = Random(name.len() as u64);
        let (mut longest, mut largest) = (Duration::ZERO, 0);
        for number in 0..count {
            let bytes = mutation(&corpus, &mut random);
            let bytes = if sealed && random.below(4) > 0 { targets::sealed(bytes) } else { bytes };
            let (before, started) = (forget_peak(), Instant::now());
            // The file that a panic leaves tells what broke the reader.
            let found = std::panic::catch_unwind(|| read(&bytes));
            let time = started.elapsed();
            let memory = peak().saturating_sub(before);
            let fine = found.is_ok() && time < limit && memory < (256 << 20) + 20 * bytes.len();
            if !fine {
                let file = std::env::temp_dir().join(format!("mars-{name}-{number}"));
                fs::write(&file, &bytes).unwrap();
                panic!("{name}: {} takes {time:?} and {} MiB, or panics", file.display(), memory >> 20);
            }
            (longest, largest) = (longest.max(time), largest.max(memory));
        }
        println!("{name}: {count} mutations, longest {longest:?}, largest {} MiB", largest >> 20);
    }
}

/// Lets the peak of this process's memory begin again; bytes in use. Without Linux's `/proc` memory isn't looked at.
fn forget_peak() -> usize {
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak()
}

/// Most bytes of memory that this process had in use.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0) << 10
}

/// A file of a corpus with one to four changes.
fn mutation(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [&str; 12] = [
        "0",
        "-1",
        "1",
        "255",
        "65536",
        "4294967296",
        "18446744073709551615",
        "1e308",
        "-1e-320",
        "nan",
        "1e999",
        "0.5",
    ];
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let place = random.below(bytes.len());
        let stretch = place..bytes.len().min(place + 1 + random.below(64));
        match random.below(7) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes[place] = random.next() as u8,
            2 => bytes.truncate(place),
            3 => drop(bytes.drain(stretch)),
            4 => {
                let copy = bytes[stretch].to_vec();
                bytes.splice(place..place, copy);
            }
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.splice(stretch, other[from..other.len().min(from + 64)].iter().copied());
            }
            // The number that comes next becomes another one.
            _ => {
                let digit = |byte: &u8| byte.is_ascii_digit();
                let start = bytes[place..].iter().position(digit).map_or(place, |start| place + start);
                let len = bytes[start..].iter().take_while(|byte| digit(byte)).count();
                bytes.splice(start..start + len, NUMBERS[random.below(NUMBERS.len())].bytes());
            }
        }
    }
    bytes
}
