//! Tensors of a file: what they are called and how large they are is read first, their values only when they are asked for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use super::integers::Integers;
use super::wire::{Damage, Field, Value, fields};
use crate::network::floats::FloatFormat;

/// FLOAT of `TensorProto.DataType`.
const FLOAT: i64 = 1;

/// A tensor whose values haven't been read.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub sizes: Vec<usize>,
    /// Of `TensorProto.DataType`.
    kind: i64,
    place: Place<'a>,
    /// Whether rows and columns are exchanged: the file has them the other way round.
    transposed: bool,
}

/// Where the values of a tensor lie.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    /// In the file, little-endian: `raw_data`, `float_data` or `double_data`.
    Raw(&'a [u8]),
    /// In the file, in as many bytes as each needs: `int32_data` or `int64_data`.
    Varints(&'a [u8]),
    /// In a file beside it.
    Beside { location: &'a str, offset: u64, length: Option<u64> },
    /// All of them are this one.
    Filled(f32),
}

impl<'a> Tensor<'a> {
    /// # Errors
    /// A damaged message; sizes that no memory has.
    pub fn read(message: &'a [u8]) -> Result<Self, Damage> {
        let (mut name, mut kind, mut sizes, mut place) = ("", 0, Vec::new(), None);
        let mut put = |found| match place.replace(found) {
            None => Ok(()),
            Some(_) => Err("a tensor whose values come in pieces"),
        };
        let mut beside = None;
        for field in fields(message) {
            let field = field?;
            match field.number {
                1 => field.integers(&mut sizes)?,
                2 => kind = field.integer()?,
                4 | 9 | 10 => put(Place::Raw(field.bytes()?))?,
                5 | 7 => put(Place::Varints(field.bytes()?))?,
                8 => name = field.text()?,
                13 => {
                    let (location, offset, length) = beside.get_or_insert(("", 0, None));
                    let (key, value) = entry(field.bytes()?)?;
                    let number = || value.parse::<u64>().map_err(|_| "a place beside the file that is no number");
                    match key {
                        "location" => *location = value,
                        "offset" => *offset = number()?,
                        "length" => *length = Some(number()?),
                        _ => {}
                    }
                }
                _ => {}
            }
            if sizes.len() > Integers::MOST_SIZES {
                return Err("a tensor with more than 8 dimensions");
            }
        }
        let sizes: Option<Vec<usize>> = sizes.into_iter().map(|size| usize::try_from(size).ok()).collect();
        let sizes = sizes.filter(|sizes| product(sizes).is_some()).ok_or("a tensor with sizes that cannot be")?;
        let place = match beside {
            Some((location, offset, length)) => Place::Beside { location, offset, length },
            None => place.unwrap_or(Place::Raw(&[])),
        };
        Ok(Self { name, sizes, kind, place, transposed: false })
    }

    /// The same under another name.
    pub fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    /// The same with rows and columns exchanged; none where there are no two sides.
    pub fn transposed(self) -> Option<Self> {
        let [rows, columns] = self.sizes[..] else { return None };
        Some(Self { sizes: vec![columns, rows], transposed: !self.transposed, ..self })
    }

    /// A tensor of these sizes, all of whose values are one.
    pub fn filled(name: &'a str, sizes: Vec<usize>, value: f32) -> Option<Self> {
        product(&sizes)?;
        Some(Self { name, sizes, kind: FLOAT, place: Place::Filled(value), transposed: false })
    }

    /// Whether it is made of one value: nothing but its sizes limits the memory that it takes.
    pub fn is_filled(&self) -> bool {
        matches!(self.place, Place::Filled(_))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        product(&self.sizes).expect("it was computed when the tensor was read")
    }

    fn format(&self) -> Option<FloatFormat> {
        match self.kind {
            FLOAT => Some(FloatFormat::F32),
            10 => Some(FloatFormat::F16),
            11 => Some(FloatFormat::F64),
            16 => Some(FloatFormat::Bf16),
            _ => None,
        }
    }

    /// Its values as 32-bit floats; `folder` is that of the file.
    ///
    /// # Errors
    /// Another kind of values, other ones than its sizes need, a file beside that cannot be read, a value that isn't finite.
    pub fn floats(&self, folder: &Path) -> Result<Vec<f32>, String> {
        let name = self.name;
        let format = self.format().ok_or_else(|| format!("`{name}` holds no floats"))?;
        let bytes = self.len().checked_mul(format.size()).ok_or_else(|| format!("`{name}` is too large"))?;
        let decode =
            |bytes: &[u8]| bytes.chunks_exact(format.size()).map(|bytes| format.read_little_endian(bytes)).collect();
        let mut values: Vec<f32> = match self.place {
            Place::Filled(value) => vec![value; self.len()],
            Place::Raw(raw) => {
                self.check_count(raw.len(), bytes, "bytes")?;
                decode(raw)
            }
            // Floats of 16 bits stand in `int32_data`.
            Place::Varints(packed) if format.size() == 2 => {
                let bits = self.varints(packed)?;
                bits.into_iter().map(|bits| format.read_little_endian(&(bits as u16).to_le_bytes())).collect()
            }
            Place::Varints(_) => return Err(format!("`{name}` holds no floats")),
            Place::Beside { location, offset, length } => {
                if let Some(length) = length {
                    self.check_count(length as usize, bytes, "bytes")?;
                }
                decode(&read_beside(folder, location, offset, bytes).map_err(|reason| format!("`{name}`: {reason}"))?)
            }
        };
        if let (true, [rows, columns]) = (self.transposed, &self.sizes[..]) {
            // Rows of this one are columns of the file's.
            let places = (0..*rows).flat_map(|row| (0..*columns).map(move |column| column * rows + row));
            values = places.map(|place| values[place]).collect();
        }
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(value) => Err(format!("`{name}` holds {value}")),
        }
    }

    /// Its values as whole numbers; none for floats and for more numbers than shapes and places have. `folder` is that of the file.
    pub fn integers(&self, folder: &Path) -> Result<Option<Integers>, String> {
        // INT32, INT64 and BOOL, and the bytes of a number.
        let Some(size) =
            [(6, 4), (7, 8), (9, 1)].into_iter().find_map(|(kind, size)| (kind == self.kind).then_some(size))
        else {
            return Ok(None);
        };
        if self.len() > Integers::MOST || self.sizes.iter().any(|size| *size > Integers::MOST) {
            return Ok(None);
        }
        let decode = |bytes: &[u8]| -> Vec<i64> {
            match size {
                4 => bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
                8 => bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
                _ => bytes.iter().map(|byte| i64::from(*byte)).collect(),
            }
        };
        let values = match self.place {
            Place::Varints(packed) => self.varints(packed)?,
            Place::Raw(raw) => decode(raw),
            Place::Filled(_) => return Ok(None),
            Place::Beside { location, offset, .. } => {
                let bytes = read_beside(folder, location, offset, size * self.len());
                decode(&bytes.map_err(|reason| format!("`{}`: {reason}", self.name))?)
            }
        };
        self.check_count(values.len(), self.len(), "values")?;
        Ok(Some(Integers { sizes: self.sizes.clone(), values }))
    }

    fn check_count(&self, found: usize, needed: usize, of: &str) -> Result<(), String> {
        if found == needed {
            return Ok(());
        }
        Err(format!("`{}` has {found} {of}, its sizes {:?} need {needed}", self.name, self.sizes))
    }

    /// As many whole numbers as its sizes need.
    fn varints(&self, packed: &[u8]) -> Result<Vec<i64>, String> {
        // Each takes a byte at least.
        if packed.len() < self.len() {
            self.check_count(packed.len(), self.len(), "values at most")?;
        }
        let mut values = Vec::new();
        Field { number: 0, value: Value::Bytes(packed) }.integers(&mut values)?;
        self.check_count(values.len(), self.len(), "values")?;
        Ok(values)
    }
}

/// Key and value of an entry.
fn entry(message: &[u8]) -> Result<(&str, &str), Damage> {
    let (mut key, mut value) = ("", "");
    for field in fields(message) {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size))
}

/// Bytes of a file in the same folder or in one within it.
fn read_beside(folder: &Path, location: &str, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    let parts = || Path::new(location).components();
    let inside = parts().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && parts().any(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(format!("its values lie in `{location}`, which isn't within the file's own folder"));
    }
    let path = folder.join(location);
    let unreadable = |error: &dyn std::fmt::Display| format!("its values lie in {}: {error}", path.display());
    if !path.exists() {
        return Err(format!("its values lie in {}, which is missing: put that file there", path.display()));
    }
    let mut file = File::open(&path).map_err(|error| unreadable(&error))?;
    let size = file.metadata().map_err(|error| unreadable(&error))?.len();
    // Before any memory is taken for them.
    if offset.checked_add(length as u64).is_none_or(|end| end > size) {
        return Err(unreadable(&format!("it has {size} bytes, of which {length} from {offset} on are named")));
    }
    let mut bytes = vec![0; length];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|error| unreadable(&error))?;
    Ok(bytes)
}
