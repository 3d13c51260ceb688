//! The arrays of a checkpoint file: what they are called and how large they are is read first, their values only when they are asked for.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::Value;

use super::pytorch;
use crate::error::{CheckpointError, Error, Result};
use crate::files::Source;
use crate::network::floats::FloatFormat;
use crate::network::weights::{METADATA, unsealed};

/// The longest header that safetensors files have.
const MAX_HEADER: u64 = 100_000_000;

/// The arrays of a file by name.
pub(super) struct Arrays {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    /// The state beside the arrays of a checkpoint of ours.
    state: Option<Value>,
}

/// An array that hasn't been read.
pub(super) struct Entry {
    pub shape: Vec<usize>,
    /// None for integers.
    pub format: Option<FloatFormat>,
    place: Place,
}

enum Place {
    /// Bytes of a safetensors file.
    File(Range<u64>),
    Pytorch(Tensor),
}

impl Arrays {
    /// Reads names, shapes and formats; the content decides whether the file is PyTorch's or safetensors.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; one of MARS's that has changed since it was written.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = Source::open(path)?;
        let (entries, state) = match safetensors_header(path, &mut file)? {
            Some(header) => safetensors_entries(path, &mut file, &header)?,
            None => {
                let reader = pytorch::open(path)?;
                let entries = reader.into_tensors().into_iter();
                (entries.map(|(name, tensor)| (name, Entry::pytorch(tensor))).collect(), None)
            }
        };
        Ok(Self { path: path.into(), entries, state })
    }

    pub fn state(&self) -> Option<&Value> {
        self.state.as_ref()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// All arrays in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The values of an array as 32-bit floats.
    ///
    /// # Errors
    /// A file that cannot be read, or that has changed.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let entry = &self.entries[name];
        let format = entry.format.expect("only floats are asked for");
        let (bytes, decode): (_, fn(FloatFormat, &[u8]) -> f32) = match &entry.place {
            Place::File(range) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let mut file = Source::open(&self.path)?;
                let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
                read.map_err(Error::io(&self.path))?;
                (bytes, FloatFormat::read_little_endian)
            }
            Place::Pytorch(tensor) => (
                tensor.read().map_err(|error| CheckpointError::unreadable(&self.path, error))?,
                FloatFormat::read_native_endian,
            ),
        };
        Ok(bytes.chunks_exact(format.size()).map(|bytes| decode(format, bytes)).collect())
    }
}

impl Entry {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn pytorch(tensor: Tensor) -> Self {
        let format = match tensor.dtype() {
            DType::F16 => Some(FloatFormat::F16),
            DType::BF16 => Some(FloatFormat::Bf16),
            DType::F32 => Some(FloatFormat::F32),
            DType::F64 => Some(FloatFormat::F64),
            DType::I64
            | DType::I32
            | DType::I16
            | DType::I8
            | DType::U64
            | DType::U32
            | DType::U16
            | DType::U8
            | DType::Bool => None,
        };
        Self { shape: tensor.shape().to_vec(), format, place: Place::Pytorch(tensor) }
    }
}

/// The header of a safetensors file with the eight bytes before it; none for another kind of file.
fn safetensors_header(path: &Path, file: &mut Source) -> Result<Option<Vec<u8>>> {
    let mut start = Vec::new();
    file.by_ref().take(9).read_to_end(&mut start).map_err(Error::io(path))?;
    let Some((&length, b"{")) = start.split_first_chunk::<8>() else { return Ok(None) };
    let length = u64::from_le_bytes(length);
    if length == 0 || length > MAX_HEADER {
        return Ok(None);
    }
    file.by_ref().take(length - 1).read_to_end(&mut start).map_err(Error::io(path))?;
    Ok(Some(start))
}

/// The arrays of a safetensors file, and the state beside those of a checkpoint of ours.
fn safetensors_entries(
    path: &Path,
    file: &mut Source,
    header: &[u8],
) -> Result<(BTreeMap<String, Entry>, Option<Value>)> {
    let (_, json) = header.split_at(8);
    let metadata: Metadata = serde_json::from_slice(json).map_err(|error| CheckpointError::unreadable(path, error))?;
    let data = header.len() as u64;
    let size = file.len().map_err(Error::io(path))?;
    let expected = data + metadata.data_len() as u64;
    if size != expected {
        return Err(
            CheckpointError::unreadable(path, format!("it has {size} bytes, its header tells of {expected}")).into()
        );
    }
    let mut state = None;
    if let Some(text) = metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)) {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(Error::io(path))?;
        state = unsealed(&bytes, text).map_err(|message| Error::file(path, message))?;
    }
    let entry = |info: &TensorInfo| {
        let format = match info.dtype {
            Dtype::F16 => Some(FloatFormat::F16),
            Dtype::BF16 => Some(FloatFormat::Bf16),
            Dtype::F32 => Some(FloatFormat::F32),
            Dtype::F64 => Some(FloatFormat::F64),
            _ => None,
        };
        let (start, end) = info.data_offsets;
        Entry { shape: info.shape.clone(), format, place: Place::File(data + start as u64..data + end as u64) }
    };
    Ok((metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect(), state))
}
