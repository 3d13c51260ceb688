//! Data sets: the official layouts, downloads, `cifar10-mini`, augmentation and batches.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::GzEncoder;
use mars::data::{
    Archive, Augment, Batch, Batches, CIFAR_SHAPE, DataOptions, Dataset, EpochOrder, Normalization, Split, epoch_order,
};
use mars::observer::{Observer, Silent};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Images in each made-up file.
const IMAGES: usize = 3;

const IMAGE_BYTES: usize = CIFAR_SHAPE.len();

fn image(number: usize) -> Vec<u8> {
    (0..IMAGE_BYTES).map(|byte| (byte * 7 + number * 13) as u8).collect()
}

/// Records with `label_bytes` labels each, of which the last is `first + index`.
fn records(label_bytes: usize, first: usize) -> Vec<u8> {
    (first..first + IMAGES)
        .flat_map(|number| {
            let labels = (0..label_bytes).rev().map(move |back| (number - back) as u8);
            labels.chain(image(number)).collect::<Vec<u8>>()
        })
        .collect()
}

fn write_cifar10(dir: &Path) -> std::path::PathBuf {
    let folder = dir.join("cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    for batch in 1..=5 {
        fs::write(folder.join(format!("data_batch_{batch}.bin")), records(1, batch)).unwrap();
    }
    fs::write(folder.join("test_batch.bin"), records(1, 0)).unwrap();
    let names: String = (0..10).map(|class| format!("class {class}\n")).collect();
    fs::write(folder.join("batches.meta.txt"), names + "\n").unwrap();
    folder
}

fn options(dir: &Path) -> DataOptions {
    DataOptions { data_dir: Some(dir.into()), data_url: Some("http://127.0.0.1:1".into()), ..DataOptions::default() }
}

fn load_error(name: &str, dir: &Path) -> String {
    Dataset::load(name, &options(dir)).unwrap_err().to_string()
}

#[test]
fn cifar10_is_read_in_the_official_order() {
    let dir = TempDir::new().unwrap();
    let folder = write_cifar10(dir.path());
    let dataset = Dataset::load("cifar10", &options(dir.path())).unwrap();
    assert_eq!(dataset.train.labels, [1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6, 5, 6, 7]);
    assert_eq!(dataset.test.labels, [0, 1, 2]);
    assert_eq!(dataset.test.image(2), image(2));
    assert_eq!(dataset.classes[9], "class 9");
    let both: Vec<u8> = [image(0), image(1), image(2), vec![0, 1, 2]].concat();
    assert_eq!(dataset.test.sha256(), format!("{:x}", Sha256::digest(both)));
    assert_eq!(Dataset::load("cifar10", &options(&folder)).unwrap(), dataset);
}

#[test]
fn cifar100_takes_the_fine_label() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("train.bin"), records(2, 5)).unwrap();
    fs::write(folder.join("test.bin"), records(2, 1)).unwrap();
    let names: String = (0..100).map(|class| format!("fine_{class}\n")).collect();
    fs::write(folder.join("fine_label_names.txt"), names).unwrap();
    let dataset = Dataset::load("cifar100", &options(dir.path())).unwrap();
    assert_eq!(dataset.train.labels, [5, 6, 7]);
    assert_eq!(dataset.test.image(0), image(1));
    assert_eq!(dataset.classes.len(), 100);

    let mut test = records(2, 1);
    test[0] = 20;
    fs::write(folder.join("test.bin"), test).unwrap();
    let error = load_error("cifar100", dir.path());
    assert!(error.contains("test.bin: image 0 has label 20, expected one below 20"), "{error}");
}

#[test]
fn a_damaged_file_is_named_with_what_was_expected() {
    let dir = TempDir::new().unwrap();
    let folder = write_cifar10(dir.path());
    let spoil = |file: &str, bytes: &[u8], expected: &str| {
        let good = fs::read(folder.join(file)).unwrap();
        fs::write(folder.join(file), bytes).unwrap();
        let error = load_error("cifar10", dir.path());
        assert!(error.contains(file) && error.contains(expected), "{error}");
        fs::write(folder.join(file), good).unwrap();
    };
    let good = records(1, 0);
    spoil("data_batch_3.bin", &good[..good.len() - 1], "it has 9218 bytes");
    spoil("data_batch_3.bin", &[], "30730000");
    spoil("test_batch.bin", &[&good[..], &[0]].concat(), "3073 bytes");
    spoil("test_batch.bin", &[&[10], &good[1..]].concat(), "image 0 has label 10, expected one below 10");
    spoil("data_batch_1.bin", &vec![0; 3073 * 10_001], "more than 30730000 bytes");
    spoil("batches.meta.txt", b"one\n", "1 class names, expected 10");
    spoil("batches.meta.txt", b"\xff", "it isn't text");
    fs::remove_file(folder.join("data_batch_5.bin")).unwrap();
    let error = load_error("cifar10", dir.path());
    assert!(error.contains("data_batch_5.bin is missing; unpack"), "{error}");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = load_error("cifar", Path::new("nowhere"));
    assert_eq!(
        error,
        "data set `cifar` is unknown; known are cifar10, cifar100, cifar10-mini, a folder of images (train/CLASS/), a folder of IDX files, and .npz files; did you mean `cifar10`?"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..7000), cut in 0..3 * 3073usize) {
        let dir = TempDir::new().unwrap();
        let folder = write_cifar10(dir.path());
        let write = |bytes: &[u8]| {
            (1..=5).for_each(|batch| fs::write(folder.join(format!("data_batch_{batch}.bin")), bytes).unwrap());
        };
        write(&bytes);
        let whole = !bytes.is_empty() && bytes.len() % 3073 == 0 && bytes.chunks(3073).all(|record| record[0] < 10);
        prop_assert_eq!(Dataset::load("cifar10", &options(dir.path())).is_ok(), whole);
        write(&records(1, 0)[..cut]);
        prop_assert_eq!(Dataset::load("cifar10", &options(dir.path())).is_ok(), cut > 0 && cut % 3073 == 0);
    }
}

// Archives

/// A small archive of two files and one that nobody wants.
fn tarball() -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, bytes) in [("set/a.bin", image(1)), ("set/readme", image(2)), ("set/b.bin", image(3))] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn archive(base_url: &str, content: &[u8]) -> Archive {
    Archive {
        url: format!("{base_url}/set.tar.gz"),
        file: "set.tar.gz".into(),
        max_bytes: 20_000,
        sha256: format!("{:x}", Sha256::digest(content)),
        folder: "set".into(),
        members: vec!["a.bin".into(), "b.bin".into()],
    }
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_installed(archive: &Archive, dir: &Path) {
    let folder = archive.install(dir, &Silent).unwrap();
    assert_eq!(names(&folder), ["a.bin", "b.bin"]);
    assert_eq!(fs::read(folder.join("b.bin")).unwrap(), image(3));
    assert!(!dir.join("set.tar.gz.part").exists());
}

#[test]
fn an_archive_that_is_there_needs_no_network_and_is_kept() {
    let content = tarball();
    let archive = archive("http://127.0.0.1:1", &content);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("set.tar.gz");
    fs::write(&path, &content[..content.len() - 1]).unwrap();
    let error = archive.install(dir.path(), &Silent).unwrap_err().to_string();
    assert!(error.contains("set.tar.gz has SHA-256") && error.contains("remove it"), "{error}");
    fs::write(&path, &content).unwrap();
    assert_installed(&archive, dir.path());
    assert_eq!(names(dir.path()), ["set", "set.tar.gz"]);
}

#[test]
fn an_archive_without_a_member_leaves_no_folder() {
    let content = tarball();
    let mut archive = archive("http://127.0.0.1:1", &content);
    archive.members.push("c.bin".into());
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("set.tar.gz"), &content).unwrap();
    let error = archive.install(dir.path(), &Silent).unwrap_err().to_string();
    assert!(error.contains("it holds no set/c.bin"), "{error}");
    assert_eq!(names(dir.path()), ["set.tar.gz"]);
}

#[cfg(not(feature = "download"))]
#[test]
fn a_program_that_cannot_download_says_so_and_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("new");
    let error = archive("http://127.0.0.1:1", b"").install(&data, &Silent).unwrap_err().to_string();
    assert!(error.contains("cargo feature `download`"), "{error}");
    assert!(!data.exists());
}

#[cfg(feature = "download")]
mod download {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use mars::error::DataError;

    use super::*;

    /// How the local server answers, request by request; the last answer is repeated.
    #[derive(Clone, Copy)]
    enum Answer {
        /// The whole file, or the range that was asked for.
        Range,
        /// The whole file, whatever was asked for.
        Whole,
        /// As `Range`, but the line breaks after so many bytes.
        Cut(usize),
        /// An error status.
        Status(u16),
    }

    /// Serves `content` on a port of its own; returns the base URL and the Range headers that were sent.
    fn serve(content: Vec<u8>, answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let log = ranges.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let range = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(String::from));
                log.lock().unwrap().push(range.clone().unwrap_or_default());
                let start =
                    range.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>());
                let answer = answers[number.min(answers.len() - 1)];
                let (status, start, end) = match (answer, start) {
                    (Answer::Status(status), _) => (status, 0, 0),
                    (Answer::Whole, _) | (_, None) => (200, 0, content.len()),
                    (_, Some(start)) => match start.unwrap() {
                        start if start >= content.len() => (416, 0, 0),
                        start => (206, start, content.len()),
                    },
                };
                let length = end - start;
                let sent = if let Answer::Cut(bytes) = answer { length.min(bytes) } else { length };
                write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n").unwrap();
                if status == 206 {
                    write!(stream, "Content-Range: bytes {start}-{}/{}\r\n", end - 1, content.len()).unwrap();
                }
                write!(stream, "\r\n").unwrap();
                // The client may hang up first.
                let _ = stream.write_all(&content[start..start + sent]);
            }
        });
        (url, ranges)
    }

    #[test]
    fn a_download_is_checked_and_unpacked() {
        let content = tarball();
        let (url, ranges) = serve(content.clone(), vec![Answer::Range]);
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("new").join("folder");
        assert_installed(&archive(&url, &content), &data);
        assert_eq!(names(&data), ["set"]);
        assert_eq!(*ranges.lock().unwrap(), [""]);
    }

    #[test]
    fn a_broken_line_is_resumed() {
        let content = tarball();
        let (url, ranges) = serve(content.clone(), vec![Answer::Cut(100), Answer::Cut(50), Answer::Range]);
        let dir = TempDir::new().unwrap();
        assert_installed(&archive(&url, &content), dir.path());
        assert_eq!(*ranges.lock().unwrap(), ["", "bytes=100-", "bytes=150-"]);
    }

    #[test]
    fn a_download_of_an_earlier_run_is_resumed() {
        let content = tarball();
        for have in [1, content.len() - 1] {
            let (url, ranges) = serve(content.clone(), vec![Answer::Range]);
            let dir = TempDir::new().unwrap();
            fs::write(dir.path().join("set.tar.gz.part"), &content[..have]).unwrap();
            assert_installed(&archive(&url, &content), dir.path());
            assert_eq!(*ranges.lock().unwrap(), [format!("bytes={have}-")]);
        }
    }

    /// A full disk may have kept a whole download from being unpacked.
    #[test]
    fn a_whole_download_needs_no_server() {
        let content = tarball();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("set.tar.gz.part"), &content).unwrap();
        assert_installed(&archive("http://127.0.0.1:1", &content), dir.path());
    }

    #[test]
    fn a_server_without_ranges_is_read_from_the_start() {
        let content = tarball();
        let (url, _) = serve(content.clone(), vec![Answer::Whole]);
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("set.tar.gz.part"), b"something else").unwrap();
        assert_installed(&archive(&url, &content), dir.path());
    }

    #[test]
    fn a_wrong_checksum_leaves_nothing_behind() {
        let content = tarball();
        let (url, _) = serve(content, vec![Answer::Range]);
        let dir = TempDir::new().unwrap();
        let error = archive(&url, b"official").install(dir.path(), &Silent).unwrap_err();
        assert!(matches!(error, DataError::Checksum { .. }), "{error}");
        assert!(error.to_string().contains("it was removed: run again"), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_refusing_server_is_quoted_and_what_came_is_kept() {
        let content = tarball();
        let (url, _) = serve(content.clone(), vec![Answer::Cut(10), Answer::Status(503)]);
        let dir = TempDir::new().unwrap();
        let error = archive(&url, &content).install(dir.path(), &Silent).unwrap_err().to_string();
        assert!(error.contains("status 503") && error.contains("run again"), "{error}");
        assert_eq!(fs::read(dir.path().join("set.tar.gz.part")).unwrap(), content[..10]);
    }

    #[test]
    fn a_server_that_sends_too_much_is_cut_off_and_nothing_is_kept() {
        let (url, _) = serve(vec![7; 200_000], vec![Answer::Whole]);
        let dir = TempDir::new().unwrap();
        let error = archive(&url, b"").install(dir.path(), &Silent).unwrap_err().to_string();
        assert!(error.contains("more than the 20000 bytes of the archive"), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
    }

    /// Each try brings a byte: there is an end to that too.
    #[test]
    fn a_line_that_breaks_again_and_again_is_given_up() {
        let content = tarball();
        let (url, ranges) = serve(content.clone(), vec![Answer::Cut(1)]);
        let dir = TempDir::new().unwrap();
        let error = archive(&url, &content).install(dir.path(), &Silent).unwrap_err().to_string();
        assert!(error.contains("run again to go on from there"), "{error}");
        assert_eq!(ranges.lock().unwrap().len(), 6);
    }

    #[test]
    fn a_server_that_is_not_there_leaves_nothing_behind() {
        let dir = TempDir::new().unwrap();
        let error = archive("http://127.0.0.1:1", b"").install(dir.path(), &Silent).unwrap_err();
        assert!(matches!(error, DataError::Download { .. }), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn two_programs_do_not_write_one_download() {
        let dir = TempDir::new().unwrap();
        let part = fs::File::create(dir.path().join("set.tar.gz.part")).unwrap();
        part.lock().unwrap();
        let error = archive("http://127.0.0.1:1", b"").install(dir.path(), &Silent).unwrap_err();
        assert!(matches!(error, DataError::Busy { .. }), "{error}");
    }
}

// cifar10-mini

#[test]
fn the_mini_set_is_balanced_and_found_anywhere() {
    let dataset = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (3000, 800));
    assert_eq!(dataset.train.images.len(), 3000 * IMAGE_BYTES);
    for (split, each) in [(&dataset.train, 300), (&dataset.test, 80)] {
        for class in 0..10u16 {
            assert_eq!(split.labels.iter().filter(|&&label| label == class).count(), each);
        }
    }
    // Printed by datasets/make-cifar10-mini.py.
    let pixels = Sha256::new().chain_update(&dataset.train.images).chain_update(&dataset.test.images);
    let expected = "f07def79aac1d70ac55b4d4ac59db43fcbabf339f7b102e33ece5447735b662e";
    assert_eq!(format!("{:x}", pixels.finalize()), expected);
}

// Augmentation and batches

fn standard() -> Augment {
    Augment { shape: CIFAR_SHAPE, padding: 4, flip: true, cutout: 0, border: vec![124, 116, 104] }
}

fn augmented(augment: Augment, seed: u64, epoch: u64, sample: u64) -> Vec<u8> {
    let mut out = vec![0; IMAGE_BYTES];
    augment.apply(&image(0), &mut out, seed, epoch, sample);
    out
}

/// The crop at (top, left) of the image with a border of 4, flipped or not, pixel by pixel.
fn crop(image: &[u8], top: usize, left: usize, flip: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (color, border) in standard().border.into_iter().enumerate() {
        for y in 0..32 {
            for x in 0..32 {
                let x = if flip { 31 - x } else { x };
                let inside = (4..36).contains(&(y + top)) && (4..36).contains(&(x + left));
                out.push(if inside { image[color * 1024 + (y + top - 4) * 32 + x + left - 4] } else { border });
            }
        }
    }
    out
}

#[test]
fn augmentation_is_one_of_the_162_crops_and_all_occur() {
    let image: Vec<u8> = (0..IMAGE_BYTES).map(|byte| (byte * byte / 31) as u8).collect();
    let mut crops = std::collections::HashMap::new();
    for (number, (top, left)) in (0..81).map(|n| (n, (n / 9, n % 9))) {
        crops.insert(crop(&image, top, left, false), number * 2);
        crops.insert(crop(&image, top, left, true), number * 2 + 1);
    }
    let mut seen = [0; 162];
    let mut out = vec![0; IMAGE_BYTES];
    for sample in 0..5000 {
        standard().apply(&image, &mut out, 1, 2, sample);
        seen[crops[&out]] += 1;
    }
    assert!(seen.iter().all(|&times| (5..80).contains(&times)), "{seen:?}");
}

#[test]
fn augmentation_depends_on_seed_epoch_and_sample_alone() {
    assert_eq!(augmented(standard(), 1, 2, 3), augmented(standard(), 1, 2, 3));
    for (position, vary) in [[1, 0, 0], [0, 1, 0], [0, 0, 1]].into_iter().enumerate() {
        let differ = (0..20)
            .any(|n| augmented(standard(), n * vary[0], n * vary[1], n * vary[2]) != augmented(standard(), 0, 0, 0));
        assert!(differ, "argument {position} has no effect");
    }
    let none = Augment { padding: 0, flip: false, ..standard() };
    assert_eq!(augmented(none, 1, 2, 3), image(0));
}

#[test]
fn a_border_wider_than_the_image_can_be_all_that_is_seen() {
    let wide = Augment { padding: 100, ..standard() };
    let border: Vec<u8> = standard().border.iter().flat_map(|&byte| [byte; 1024]).collect();
    assert!((0..100).any(|sample| augmented(wide.clone(), 0, 0, sample) == border));
}

fn split(images: usize) -> Split {
    Split {
        shape: CIFAR_SHAPE,
        images: (0..images).flat_map(image).collect(),
        labels: (0..images).map(|number| number as u16).collect(),
    }
}

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    let split = split(50);
    let batches_of = |epoch| -> Vec<Batch> {
        let order = EpochOrder::shuffled(split.len(), standard(), 5, epoch);
        (0..split.len()).step_by(8).map(|first| order.batch(&split, first, 8)).collect()
    };
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| batches_of(6))
    };
    let batches = with_threads(1);
    assert_eq!(batches, with_threads(7));
    assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 2]);
    let mut labels: Vec<u16> = batches.iter().flat_map(|batch| batch.labels.clone()).collect();
    assert_ne!(labels, split.labels);
    labels.sort_unstable();
    assert_eq!(labels, split.labels);
    assert_ne!(batches_of(7)[0], batches[0]);
}

#[test]
fn batches_in_order_are_the_split() {
    let split = split(10);
    let batches = Batches::in_order(&split, 4);
    assert_eq!(batches.len(), 3);
    let (images, labels): (Vec<_>, Vec<_>) = batches.map(|batch| (batch.images, batch.labels)).unzip();
    assert_eq!((images.concat().into(), labels.concat()), (split.images, split.labels));
    assert_eq!(Batches::in_order(&Split::default(), 4).count(), 0);
}

/// A resumed run must draw what the interrupted one would have drawn.
#[test]
fn the_order_of_an_epoch_and_the_crops_are_fixed() {
    assert_eq!(epoch_order(8, 1, 0), [5, 2, 7, 6, 1, 4, 3, 0]);
    assert_ne!(epoch_order(80, 1, 0), epoch_order(80, 1, 1));
    assert_ne!(epoch_order(80, 1, 0), epoch_order(80, 2, 0));
    let crops: Vec<u8> = (0..100).flat_map(|sample| augmented(standard(), 1, 2, sample)).collect();
    assert_eq!(format!("{:x}", Sha256::digest(crops))[..16], *"4867d1e15caba420");
}

#[test]
fn zero_points_are_the_rounded_means() {
    assert_eq!(Normalization::default().zero_points(), [124, 116, 104]);
}

#[test]
fn cutout_paints_a_square_over_and_leaves_the_rest() {
    let (plain, cut) =
        (Augment { border: vec![0; 3], ..standard() }, Augment { cutout: 8, border: vec![0; 3], ..standard() });
    let white = vec![255; IMAGE_BYTES];
    let mut sizes = std::collections::BTreeSet::new();
    for sample in 0..2000 {
        let [mut before, mut after] = [(); 2].map(|()| vec![0; IMAGE_BYTES]);
        plain.apply(&white, &mut before, 1, 2, sample);
        cut.apply(&white, &mut after, 1, 2, sample);
        let painted: Vec<usize> = (0..IMAGE_BYTES).filter(|byte| before[*byte] != after[*byte]).collect();
        assert!(painted.iter().all(|byte| after[*byte] == 0), "{sample}: the crop is the same beside the square");
        if before.iter().all(|byte| *byte == 255) {
            let (rows, columns): (Vec<usize>, Vec<usize>) =
                painted.iter().map(|byte| (byte / 32 % 32, byte % 32)).unzip();
            let span = |places: &[usize]| places.iter().max().unwrap() - places.iter().min().unwrap() + 1;
            assert_eq!(painted.len(), 3 * span(&rows) * span(&columns));
            sizes.extend([span(&rows), span(&columns)]);
        }
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [4, 5, 6, 7, 8], "cut off at the edges alone");
}

#[test]
fn held_out_images_are_of_all_classes_alike() {
    let mini = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let held_out = |images, seed| {
        let mut dataset = mini.clone();
        dataset.hold_out(images, seed).unwrap();
        dataset
    };
    let dataset = held_out(205, 1);
    assert_eq!((dataset.validation.len(), dataset.train.len()), (205, mini.train.len() - 205));
    for class in 0..10u16 {
        let count = |split: &Split| split.labels.iter().filter(|label| **label == class).count();
        assert_eq!(count(&dataset.validation), if class < 5 { 21 } else { 20 });
        assert_eq!(count(&dataset.validation) + count(&dataset.train), count(&mini.train));
    }
    let images =
        |split: &Split| -> Vec<Vec<u8>> { (0..split.len()).map(|index| split.image(index).to_vec()).collect() };
    let mut all = [images(&dataset.train), images(&dataset.validation)].concat();
    let mut expected = images(&mini.train);
    all.sort_unstable();
    expected.sort_unstable();
    assert!(all == expected, "each training image is in one of the two");
    assert_eq!(held_out(205, 1), dataset);
    assert_ne!(held_out(205, 2).validation, dataset.validation);
    assert_eq!(dataset.test, mini.test);
    // A class number that no image has needs none.
    let mut absent = mini.clone();
    absent.train.labels.iter_mut().filter(|label| **label == 4).for_each(|label| *label = 5);
    absent.hold_out(18, 1).unwrap();
    for class in 0..10u16 {
        let held_out = absent.validation.labels.iter().filter(|label| **label == class).count();
        assert_eq!(held_out, if class == 4 { 0 } else { 2 }, "class {class}");
    }
    let error = mini.clone().hold_out(mini.train.len(), 1).unwrap_err().to_string();
    assert!(error.contains("validation_images = 3000"), "{error}");
}

// Data of one's own.

/// Writes an image `[height][width][channels]` as PNG.
fn write_png(path: &Path, pixels: &[u8], width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let channels = pixels.len() / (width * height) as usize;
    let color = if channels == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
    image::save_buffer(path, pixels, width, height, color).unwrap();
}

/// Pixels whose bytes tell their place.
fn pixels(width: u32, height: u32, channels: u32, seed: u32) -> Vec<u8> {
    (0..width * height * channels).map(|index| (index * 7 + seed * 31) as u8).collect()
}

fn load_from(folder: &Path, image_size: Option<[usize; 2]>, channels: Option<usize>) -> Result<Dataset, String> {
    let options = DataOptions { image_size, channels, ..options(folder) };
    Dataset::load(folder.to_str().unwrap(), &options).map_err(|error| error.to_string())
}

#[test]
fn a_folder_of_images_is_a_data_set() {
    for (channels, gray) in [(3, false), (1, true)] {
        let dir = TempDir::new().unwrap();
        for (split, class, number) in
            [("train", "cat", 1), ("train", "cat", 2), ("train", "dog", 3), ("val", "dog", 4), ("val", "cat", 5)]
        {
            let path = dir.path().join(split).join(class).join(format!("{number}.png"));
            write_png(&path, &pixels(6, 4, channels, number), 6, 4);
        }
        fs::write(dir.path().join("train/cat/notes.txt"), "no image").unwrap();
        fs::write(dir.path().join("train/cat/._1.png"), "what macOS leaves beside an image").unwrap();
        let dataset = load_from(dir.path(), None, None).unwrap();
        assert_eq!(dataset.classes, ["cat", "dog"]);
        // Classes take turns.
        assert_eq!((&dataset.train.labels[..], &dataset.test.labels[..]), (&[0, 1, 0][..], &[0, 1][..]));
        let shape = dataset.train.shape;
        assert_eq!([shape.channels, shape.height, shape.width], [if gray { 1 } else { 3 }, 4, 6]);
        let expected = pixels(6, 4, channels, 3);
        for (index, byte) in dataset.train.image(1).iter().enumerate() {
            let (channel, pixel) = (index / 24, index % 24);
            assert_eq!(*byte, expected[pixel * channels as usize + channel]);
        }
        if gray {
            let colors = load_from(dir.path(), None, Some(3)).unwrap();
            assert_eq!(colors.train.image(0)[..24], colors.train.image(0)[48..]);
        }
        // Whoever knows the classes needs the test images alone.
        fs::remove_dir_all(dir.path().join("train")).unwrap();
        let error = load_from(dir.path(), None, None).unwrap_err();
        assert!(error.contains("it is no data set: it needs train/CLASS/"), "{error}");
        let of = |classes: &[&str]| {
            let classes = Some(classes.iter().map(|class| (*class).into()).collect());
            Dataset::load(dir.path().to_str().unwrap(), &DataOptions { classes, ..options(dir.path()) })
        };
        let alone = of(&["cat", "dog"]).unwrap();
        assert_eq!(
            (alone.classes, alone.train.len(), alone.test.sha256()),
            (dataset.classes, 0, dataset.test.sha256())
        );
        let error = of(&["dog", "eel"]).unwrap_err().to_string();
        assert!(error.contains("class `cat` is none of the package's classes"), "{error}");
    }
}

#[test]
fn images_are_cut_and_scaled_to_one_size() {
    let dir = TempDir::new().unwrap();
    // Left and right borders of 3 pixels that are cut away, then each pixel four times.
    let value = |x: u32, y: u32| (40 * (x / 2) + 70 * (y / 2)) as u8;
    let wide = (0..4u32).flat_map(|y| (0..10u32).map(move |x| (x, y)));
    let wide: Vec<u8> = wide.map(|(x, y)| if (3..7).contains(&x) { value(x - 3, y) } else { 255 }).collect();
    write_png(&dir.path().join("train/a/1.png"), &wide, 10, 4);
    write_png(&dir.path().join("train/b/1.png"), &pixels(2, 2, 1, 0), 2, 2);
    write_png(&dir.path().join("test/a/1.png"), &pixels(4, 4, 1, 0), 4, 4);
    let error = load_from(dir.path(), None, None).unwrap_err();
    assert!(error.contains("it has 2x2 pixels, the first image 4x10: say image_size = [HEIGHT, WIDTH]"), "{error}");
    let dataset = load_from(dir.path(), Some([2, 2]), None).unwrap();
    assert_eq!(dataset.train.image(1), pixels(2, 2, 1, 0), "an image of that size stays as it is");
    let close = dataset.train.image(0).iter().zip([0u8, 40, 70, 110]).all(|(a, b)| a.abs_diff(b) <= 20);
    assert!(close, "{:?}", dataset.train.image(0));
}

#[test]
fn without_test_images_every_fifth_is_held_out() {
    let dir = TempDir::new().unwrap();
    for class in ["a", "b"] {
        for number in 0..11 {
            write_png(&dir.path().join("train").join(class).join(format!("{number:02}.png")), &[number; 4], 2, 2);
        }
    }
    let dataset = load_from(dir.path(), None, None).unwrap();
    assert_eq!(*dataset.test.images, [[4; 4], [4; 4], [9; 4], [9; 4]].concat());
    assert_eq!((dataset.train.len(), &dataset.test.labels[..]), (18, &[0, 1, 0, 1][..]));
}

/// Hears what is said beside the progress.
#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Observer for Notices {
    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
    fn begins(&self, _: &str, _: usize, _: usize) {}
    fn advances(&self, _: usize, _: &dyn Fn() -> String) {}
    fn ends(&self, _: Option<&str>) {}
}

#[test]
fn more_images_than_memory_lie_on_disk_and_are_the_same() {
    let dir = TempDir::new().unwrap();
    for (folder, first) in [("train/a", 0), ("train/b", 40), ("test/a", 80), ("test/b", 120)] {
        for number in first..first + 20 {
            write_png(&dir.path().join(folder).join(format!("{number:03}.png")), &pixels(3, 2, 3, number), 3, 2);
        }
    }
    let bytes = 80 * 3 * 2 * 3;
    let load = |memory| {
        let options = DataOptions { memory: Some(memory), ..options(dir.path()) };
        let notices = Notices::default();
        let mut dataset = Dataset::load_with(dir.path().to_str().unwrap(), &options, &notices).unwrap();
        dataset.hold_out(6, 1).unwrap();
        (dataset, notices.0.into_inner().unwrap())
    };
    let (in_memory, silent) = load(bytes);
    let (on_disk, said) = load(bytes - 1);
    let disk =
        |dataset: &Dataset| [&dataset.train, &dataset.validation, &dataset.test].map(|split| split.images.on_disk());
    assert_eq!((disk(&in_memory), disk(&on_disk)), ([false; 3], [true; 3]));
    assert_eq!(in_memory, on_disk);
    assert_eq!(in_memory.train.sha256(), on_disk.train.sha256());
    assert_eq!(silent, [""; 0]);
    assert!(said[0].contains("decoded images take 0.0 GiB, more than the 0.0 GiB of memory"), "{said:?}");
}

#[test]
fn folders_that_are_no_data_sets_say_why() {
    let dir = TempDir::new().unwrap();
    let train = dir.path().join("train");
    fs::create_dir(&train).unwrap();
    let refused = |part: &str| {
        let error = load_from(dir.path(), None, None).unwrap_err();
        assert!(error.contains(part), "no `{part}` in {error}");
    };
    refused("each of its folders is a class: it has 0, of 2 to 65536");
    for class in ["a", "b"] {
        write_png(&train.join(class).join("1.png"), &[7; 4], 2, 2);
    }
    write_png(&dir.path().join("test/c/1.png"), &[7; 4], 2, 2);
    refused("class `c` has no training images");
    fs::rename(dir.path().join("test/c"), dir.path().join("test/b")).unwrap();
    fs::remove_file(dir.path().join("test/b/1.png")).unwrap();
    refused("it has no test images: put some into test/CLASS beside train");
    write_png(&dir.path().join("test/b/1.png"), &[7; 4], 2, 2);
    fs::rename(train.join("b/1.png"), train.join("b/1.bmp")).unwrap();
    refused("class `b` has no training images: .png, .jpg, .jpeg, .webp are read");
    fs::rename(train.join("b/1.bmp"), train.join("b/1.png")).unwrap();
    fs::write(train.join("a/2.png"), "no image").unwrap();
    refused("2.png: not a readable image");
    fs::remove_file(train.join("a/2.png")).unwrap();
    // Of each format half of the bytes.
    let pixels: Vec<u8> = pixels(16, 16, 1, 0);
    for (ending, format) in
        [("png", image::ImageFormat::Png), ("jpg", image::ImageFormat::Jpeg), ("webp", image::ImageFormat::WebP)]
    {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut bytes, &pixels, 16, 16, image::ColorType::L8, format).unwrap();
        let (file, bytes) = (train.join(format!("a/half.{ending}")), bytes.into_inner());
        fs::write(&file, &bytes).unwrap();
        refused("it has 16x16 pixels");
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        refused(&format!("half.{ending}: not a readable image"));
        fs::remove_file(file).unwrap();
    }
    for (size, channels, part) in [
        (Some([0, 64]), None, "image_size = [0, 64]: sides are from 1 to 16384 pixels"),
        (Some([64, 100_000]), None, "image_size = [64, 100000]"),
        (None, Some(4), "its images have 1 or 3 channels, and 4 are asked for"),
    ] {
        let error = load_from(dir.path(), size, channels).unwrap_err();
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    let error = Dataset::load("empty", &options(dir.path())).unwrap_err().to_string();
    assert!(error.contains("it is no data set: it needs train/CLASS/"), "{error}");
    let error = Dataset::load("nowhere", &options(dir.path())).unwrap_err().to_string();
    assert!(error.contains("data set `nowhere` is unknown; known are cifar10"), "{error}");
}

/// An IDX file of bytes.
fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
    [&[0, 0, 8, (sizes.len() / 4) as u8], &sizes[..], values].concat()
}

#[test]
fn idx_files_are_a_data_set_packed_or_not() {
    let dir = TempDir::new().unwrap();
    let images = pixels(3, 2, 4, 1);
    fs::write(dir.path().join("train-images-idx3-ubyte"), idx(&[4, 2, 3], &images)).unwrap();
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[4], &[9, 0, 1, 2])).unwrap();
    let gz = |name: &str, bytes: Vec<u8>| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut encoder, &bytes).unwrap();
        fs::write(dir.path().join(format!("{name}.gz")), encoder.finish().unwrap()).unwrap();
    };
    // Without test images every fifth one of a class is for testing; none has five here.
    let error = load_from(dir.path(), None, None).unwrap_err();
    assert!(error.contains("no class has five images"), "{error}");
    gz("t10k-images-idx3-ubyte", idx(&[1, 2, 3], &images[..6]));
    let error = load_from(dir.path(), None, None).unwrap_err();
    assert!(error.contains("t10k-labels-idx1-ubyte.gz: it is missing"), "{error}");
    gz("t10k-labels-idx1-ubyte", idx(&[1], &[2]));
    let dataset = load_from(dir.path(), None, None).unwrap();
    assert_eq!((dataset.train.labels, dataset.test.labels), (vec![9, 0, 1, 2], vec![2]));
    assert_eq!((&*dataset.train.images, dataset.classes.len()), (&images[..], 10));
    assert!(load_from(dir.path(), Some([2, 3]), None).is_ok());
    // Of a package's classes the last ones may have no images.
    let classes = Some((0..12).map(|class| class.to_string()).collect());
    let name = dir.path().display().to_string();
    let known = Dataset::load(&name, &DataOptions { classes, ..options(dir.path()) }).unwrap();
    assert_eq!((known.classes.len(), known.test.labels), (12, vec![2]));
    let error = load_from(dir.path(), Some([4, 6]), None).unwrap_err();
    assert!(error.contains("its images have 2 x 3 pixels, and 4 x 6 are wanted"), "{error}");
    gz("t10k-labels-idx1-ubyte", idx(&[2], &[3, 4]));
    let error = load_from(dir.path(), None, None).unwrap_err();
    assert!(error.contains("it has 1 images and labels of shape [2]"), "{error}");
}

/// A size that a data set cannot have is refused before it is downloaded.
#[test]
fn only_the_images_of_a_folder_are_scaled() {
    let dir = TempDir::new().unwrap();
    let load = |name, image_size| Dataset::load(name, &DataOptions { image_size, ..options(dir.path()) });
    for name in ["cifar10", "cifar100", "cifar10-mini"] {
        let error = load(name, Some([64, 64])).unwrap_err().to_string();
        let expected = format!(
            "data set `{name}`: its images have 32 x 32 pixels, and 64 x 64 are wanted, by image_size or by the network: only images of a \
             folder by class are cut and scaled"
        );
        assert_eq!(error, expected);
    }
    assert!(load("cifar10-mini", Some([32, 32])).is_ok());
}

/// An array as `numpy.save` writes it.
fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

fn write_npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn npz_files_have_images_of_any_size_and_many_classes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("own.npz");
    let load = || Dataset::load("own.npz", &options(dir.path())).map_err(|error| error.to_string());
    let images = pixels(2, 5, 3, 0);
    let labels: Vec<u8> = [300u16, 0].iter().flat_map(|label| label.to_le_bytes()).collect();
    let test =
        [("x_test", npy("|u1", "(1, 5, 2, 3)", &images)), ("y_test", npy("<i8", "(1,)", &[44, 1, 0, 0, 0, 0, 0, 0]))];
    let twice = [&images[..], &images].concat();
    let train = [("x_train", npy("|u1", "(2, 5, 2, 3)", &twice)), ("y_train", npy("<u2", "(2, 1)", &labels))];
    write_npz(&path, &[train.clone(), test.clone()].concat());
    let dataset = load().unwrap();
    assert_eq!(
        (dataset.classes.len(), &dataset.train.labels[..], &dataset.test.labels[..]),
        (301, &[300, 0][..], &[300][..])
    );
    assert_eq!(dataset.train.shape, mars::data::ImageShape { channels: 3, height: 5, width: 2 });
    assert_eq!(dataset.train.image(1)[..3], [images[0], images[3], images[6]]);
    assert_ne!(dataset.train.sha256(), Split { labels: vec![44, 0], ..dataset.train.clone() }.sha256());
    let notices = Notices::default();
    Dataset::load_with("own.npz", &options(dir.path()), &notices).unwrap();
    let said = notices.0.into_inner().unwrap();
    assert!(said[0].ends_with("own.npz: 299 of 301 classes have no images: labels count from 0"), "{said:?}");
    let unknown = ("y_test", npy("|u1", "(1,)", &[7]));
    write_npz(&path, &[&train[..], &[test[0].clone(), unknown]].concat());
    assert!(load().unwrap_err().contains("class 7 has test images and no training images"));
    write_npz(&path, &[&train[..], &test[..1]].concat());
    let error = load().unwrap_err();
    assert!(error.contains("`y_test`"), "{error}");
    // Without test images; then what isn't a data set.
    let fives = npy("|u1", "(10, 5, 2)", &pixels(2, 5, 10, 0));
    write_npz(&path, &[("images", fives.clone()), ("labels", npy("|u1", "(10,)", &[1; 10]))]);
    let dataset = load().unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (8, 2));
    let notices = Notices::default();
    Dataset::load_with("own.npz", &options(dir.path()), &notices).unwrap();
    let said = notices.0.into_inner().unwrap();
    assert!(
        said[0].ends_with("own.npz: it has no test images: every fifth image of a class is for testing, 2 of 10")
            && said[1].ends_with("own.npz: 1 of 2 classes have no images: labels count from 0"),
        "{said:?}"
    );
    // Those for validation are for testing where there are no others; else they are left aside.
    let [some, labels] = [("images", fives.clone()), ("labels", npy("|u1", "(10,)", &[0; 10]))];
    let [val, val_labels] =
        [("val_images", npy("|u1", "(1, 5, 2)", &[7; 10])), ("val_labels", npy("|u1", "(1,)", &[0]))];
    write_npz(&path, &[some.clone(), labels.clone(), val.clone(), val_labels.clone()]);
    assert_eq!((load().unwrap().train.len(), load().unwrap().test.image(0)), (10, &[7; 10][..]));
    let test = [("test_images", npy("|u1", "(1, 5, 2)", &[9; 10])), ("test_labels", npy("|u1", "(1,)", &[0]))];
    write_npz(&path, &[&[some, labels, val, val_labels][..], &test].concat());
    let notices = Notices::default();
    let dataset = Dataset::load_with("own.npz", &options(dir.path()), &notices).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.image(0)), (10, &[9; 10][..]));
    let said = notices.0.into_inner().unwrap();
    assert!(said[0].ends_with("own.npz: left aside: val_images, val_labels"), "{said:?}");
    let floats = ("images", npy("<f4", "(10, 1)", &[0; 40]));
    for (arrays, part) in [
        (vec![("images", fives.clone())], "its arrays must be called `x_train` and `y_train`"),
        (vec![floats, ("labels", npy("|u1", "(10,)", &[1; 10]))], "`images`: it holds <f4"),
        (
            vec![("images", fives.clone()), ("labels", npy("|i1", "(10,)", &[255; 10]))],
            "label -1 is not from 0 to 65535",
        ),
        (vec![("images", fives), ("labels", npy("|u1", "(9,)", &[1; 9]))], "it has 10 images and labels of shape [9]"),
    ] {
        write_npz(&path, &arrays);
        let error = load().unwrap_err();
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    fs::write(&path, "nothing").unwrap();
    assert!(load().unwrap_err().contains("not a readable .npz file"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a file holds, it is a data set or an error.
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), place in 0..2000usize) {
        let dir = TempDir::new().unwrap();
        let load = |name: &str| Dataset::load(name, &options(dir.path())).is_ok();
        write_npz(
            &dir.path().join("own.npz"),
            &[("images", npy("|u1", "(10, 2, 1)", &[1; 20])), ("labels", npy("|u1", "(10,)", &[1; 10]))],
        );
        let mut npz = fs::read(dir.path().join("own.npz")).unwrap();
        prop_assert!(load("own.npz"));
        let place = place % npz.len();
        npz[place] ^= bytes.first().copied().unwrap_or(1);
        fs::write(dir.path().join("own.npz"), npz).unwrap();
        load("own.npz");
        fs::write(dir.path().join("own.npz"), &bytes).unwrap();
        prop_assert!(!load("own.npz"));
        let folder = dir.path().join("idx");
        fs::create_dir(&folder).unwrap();
        for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"] {
            fs::write(folder.join(name), [&[0, 0, 8, 3], &bytes[..]].concat()).unwrap();
        }
        prop_assert!(!load("idx"));
        let classes = dir.path().join("images/train");
        for (class, start) in [("a", &b"\x89PNG\r\n\x1a\n"[..]), ("b", b"RIFF\x20\0\0\0WEBPVP8 ")] {
            fs::create_dir_all(classes.join(class)).unwrap();
            fs::write(classes.join(class).join("1.png"), [start, &bytes].concat()).unwrap();
        }
        prop_assert!(!load("images"));
    }
}
