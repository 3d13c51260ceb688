//! The bytes of images: in memory, or in a file on disk where there isn't enough of it.

use std::fmt::{Debug, Formatter};
use std::fs::File;
use std::io::{Result, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap};

/// Bytes of images, read as one slice wherever they lie.
#[derive(Clone)]
pub struct Pixels(Store);

#[derive(Clone)]
enum Store {
    Memory(Vec<u8>),
    Disk(Arc<Disk>),
}

/// A file without a name, which goes with the process. The system reads its pages when they are used and drops them when memory is short.
struct Disk {
    map: Mmap,
    /// Where it lies.
    folder: PathBuf,
}

impl Pixels {
    /// Whether they lie on disk.
    pub fn on_disk(&self) -> bool {
        matches!(self.0, Store::Disk(_))
    }

    /// These parts one after the other, of so many bytes together, where the whole lies.
    pub(super) fn gathered<'a>(&'a self, parts: impl Iterator<Item = &'a [u8]>, bytes: usize) -> Result<Self> {
        let mut writer = match &self.0 {
            Store::Memory(_) => PixelsWriter::in_memory(bytes)?,
            Store::Disk(disk) => PixelsWriter::on_disk(&disk.folder)?,
        };
        for part in parts {
            writer.write(part)?;
        }
        writer.finish()
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Store::Memory(bytes) => bytes,
            Store::Disk(disk) => &disk.map,
        }
    }
}

impl AsRef<[u8]> for Pixels {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Store::Memory(bytes))
    }
}

impl FromIterator<u8> for Pixels {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Vec::from_iter(bytes).into()
    }
}

impl Default for Pixels {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Pixels {}

impl Debug for Pixels {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let place = if self.on_disk() { "on disk" } else { "in memory" };
        write!(f, "{} bytes {place}", self.len())
    }
}

/// Takes the bytes of images, one after the other.
pub(super) enum PixelsWriter {
    Memory(Vec<u8>),
    Disk { file: File, folder: PathBuf },
}

impl PixelsWriter {
    /// For so many bytes.
    ///
    /// # Errors
    /// They don't fit the memory.
    pub fn in_memory(bytes: usize) -> Result<Self> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(bytes)?;
        Ok(Self::Memory(memory))
    }

    /// In a file without a name in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn on_disk(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self::Disk { file: tempfile::tempfile_in(folder)?, folder: folder.into() })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.extend_from_slice(bytes),
            Self::Disk { file, .. } => file.write_all(bytes)?,
        }
        Ok(())
    }

    /// All of them.
    ///
    /// # Errors
    /// The system cannot map the file.
    pub fn finish(self) -> Result<Pixels> {
        Ok(Pixels(match self {
            Self::Memory(memory) => Store::Memory(memory),
            Self::Disk { file, folder } => {
                // SAFETY: the file has no name, so that no other process can open, change or shorten it, and this one only reads it from
                // here on.
                let map = unsafe { Mmap::map(&file) }?;
                // An epoch's order is random: pages beside the one that is used are not.
                map.advise(Advice::Random)?;
                Store::Disk(Arc::new(Disk { map, folder }))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made");
        let (parts, all) = ([&[1, 2, 3][..], &[], &[4]], [1, 2, 3, 4]);
        for (writer, disk) in
            [(PixelsWriter::in_memory(4).unwrap(), false), (PixelsWriter::on_disk(&folder).unwrap(), true)]
        {
            let mut writer = writer;
            parts.iter().for_each(|part| writer.write(part).unwrap());
            let pixels = writer.finish().unwrap();
            assert_eq!((pixels.on_disk(), &*pixels), (disk, &all[..]));
            let part = pixels.gathered([&pixels[2..], &pixels[..1]].into_iter(), 3).unwrap();
            assert_eq!((part.on_disk(), &*part), (disk, &[3, 4, 1][..]));
            assert_eq!(pixels, Pixels::from(all.to_vec()));
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "a file without a name");
    }

    #[test]
    fn no_images_need_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PixelsWriter::on_disk(dir.path()).unwrap().finish().unwrap().is_empty());
    }
}
