//! Opening PyTorch's files.
//!
//! `torch.save` writes records of ZIP64 between the central directory and the end record of each archive, though nothing in it needs them.
//! The zip crate (9.0 to 9.8) takes the directory's start from the end record: so many bytes before it as the directory has, which is 76
//! bytes late here. Where an entry begins there, the crate reads on from it and fails: the first entry, `STEM/data.pkl`, is 76 bytes long
//! where the file's stem has 21 characters. Such a file is read from a copy without those records.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pytorch_reader::{PytorchError, PytorchReader};

use crate::error::{CheckpointError, Error, Result};
use crate::files::part_beside;
use crate::foreign;

/// Opens a checkpoint: names, shapes and formats, not the values.
///
/// # Errors
/// A file that is damaged or not PyTorch's.
pub(super) fn open(path: &Path) -> Result<PytorchReader> {
    let file = &mut File::open(path).map_err(Error::io(path))?;
    let unreadable = |error: PytorchError| match kind(path) {
        Ok(Some(kind)) => Error::from(CheckpointError::unreadable(path, kind)),
        Ok(None) => CheckpointError::unreadable(path, error).into(),
        Err(error) => Error::io(path)(error),
    };
    let open = |place: &Path| PytorchReader::new(place).map_err(unreadable);
    match ends_in_zip64(file).map_err(Error::io(path))? {
        None => open(path),
        Some(archive) => {
            let copy = Copy(part_beside(&std::env::temp_dir().join(path.file_name().unwrap_or_default())));
            write_copy(file, &archive, &copy.0).map_err(Error::io(&copy.0))?;
            // The reader keeps the file open; its name isn't needed any more.
            open(&copy.0)
        }
    }
}

/// Bytes at the end of an archive in which its names are looked for.
const DIRECTORY: u64 = 1 << 16;

/// What another kind of file is, and what to do about it; none where that can't be told.
fn kind(path: &Path) -> std::io::Result<Option<&'static str>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    (&mut file).take(64).read_to_end(&mut bytes)?;
    if !bytes.starts_with(b"PK") {
        return Ok(foreign::kind(&bytes));
    }
    bytes.clear();
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(DIRECTORY)))?;
    file.read_to_end(&mut bytes)?;
    let names = |mark: &[u8]| bytes.windows(mark.len()).any(|name| name == mark);
    const KINDS: [(&[u8], &str); 3] = [
        (b"/constants.pkl", "it is TorchScript: save its state_dict() with torch.save, or export it as ONNX"),
        (b"model.weights.h5", foreign::KERAS),
        (b".npy", "it is an archive of numpy: save its arrays as safetensors or with torch.save"),
    ];
    Ok(KINDS.iter().find(|(mark, _)| names(mark)).map(|(_, kind)| *kind))
}

/// A file that is removed when it isn't needed any more.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // A file that stays behind in the folder for temporary ones harms nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}

const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: u64 = 22;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_LENGTH: u64 = 20;
const ENTRY: &[u8] = b"PK\x01\x02";

/// An archive with records of ZIP64 that it doesn't need, where an entry lies at the place that is taken for the directory's start.
struct Archive {
    /// Where the directory ends.
    directory_end: u64,
    end: [u8; END_LENGTH as usize],
}

fn ends_in_zip64(file: &mut File) -> std::io::Result<Option<Archive>> {
    let length = file.metadata()?.len();
    let Some(end_place) = length.checked_sub(END_LENGTH) else { return Ok(None) };
    let end: [u8; END_LENGTH as usize] = read_at(file, end_place)?;
    let number = |at: usize| u64::from(u32::from_le_bytes([end[at], end[at + 1], end[at + 2], end[at + 3]]));
    let (size, start) = (number(12), number(16));
    // Numbers that don't fit stand in the records of ZIP64, which the crate then reads.
    if !end.starts_with(END) || size == u64::from(u32::MAX) || start == u64::from(u32::MAX) {
        return Ok(None);
    }
    let directory_end = start + size;
    let taken_for_start = end_place.checked_sub(size);
    let (Some(locator), Some(taken_for_start)) = (end_place.checked_sub(LOCATOR_LENGTH), taken_for_start) else {
        return Ok(None);
    };
    if directory_end > locator || taken_for_start == start || read_at::<4>(file, locator)? != *LOCATOR {
        return Ok(None);
    }
    Ok((read_at::<4>(file, taken_for_start)? == *ENTRY).then_some(Archive { directory_end, end }))
}

fn read_at<const N: usize>(file: &mut File, place: u64) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(place))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_copy(file: &mut File, archive: &Archive, place: &Path) -> std::io::Result<()> {
    file.rewind()?;
    let mut copy = File::create_new(place)?;
    std::io::copy(&mut file.take(archive.directory_end).chain(&archive.end[..]), &mut copy)?;
    Ok(())
}
