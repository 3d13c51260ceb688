//! Files as `torch.save` writes them.

use flate2::Crc;

/// A tensor of 32-bit floats.
pub(crate) struct Tensor {
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    pub values: Vec<f32>,
}

/// An archive of a dictionary of tensors; `stem` is the name of the file that it was saved as, without its ending.
pub(crate) fn save(stem: &str, tensors: &[(String, Tensor)]) -> Vec<u8> {
    let mut entries = vec![(format!("{stem}/data.pkl"), pickle(tensors))];
    for (index, (_, tensor)) in tensors.iter().enumerate() {
        let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        entries.push((format!("{stem}/data/{index}"), bytes));
    }
    entries.push((format!("{stem}/version"), b"3\n".to_vec()));
    archive(&entries)
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn integer(value: usize) -> Vec<u8> {
    [b"J".as_slice(), &(value as u32).to_le_bytes()].concat()
}

fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &parts.concat(), b"t"].concat()
}

fn pickle(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(".to_vec();
    for (index, (name, Tensor { shape, strides, values })) in tensors.iter().enumerate() {
        let storage = tuple(&[
            text("storage"),
            b"ctorch\nFloatStorage\n".to_vec(),
            text(&index.to_string()),
            text("cpu"),
            integer(values.len()),
        ]);
        let sizes = |sizes: &[usize]| tuple(&sizes.iter().map(|size| integer(*size)).collect::<Vec<_>>());
        let arguments = tuple(&[
            [storage, b"Q".to_vec()].concat(),
            integer(0),
            sizes(shape),
            sizes(strides),
            b"\x89".to_vec(),
            b"ccollections\nOrderedDict\n)R".to_vec(),
        ]);
        bytes.extend(text(name));
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n");
        bytes.extend(arguments);
        bytes.push(b'R');
    }
    bytes.extend(b"u.");
    bytes
}

/// Stored entries, and records of ZIP64 before the end record, as PyTorch's writer leaves them always.
fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut crc = Crc::new();
        crc.update(bytes);
        let size = (bytes.len() as u32).to_le_bytes();
        // Version, flags, method, time and date, then what both headers share.
        let common =
            [&[0; 10][..], &crc.sum().to_le_bytes(), &size, &size, &(name.len() as u16).to_le_bytes(), &[0; 2]]
                .concat();
        let place = (file.len() as u32).to_le_bytes();
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &place, name.as_bytes()].concat());
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
    }
    let (count, size, start) = (entries.len(), directory.len(), file.len());
    file.extend(directory);
    let records = file.len() as u64;
    let wide = |value: usize| (value as u64).to_le_bytes();
    file.extend([b"PK\x06\x06".as_slice(), &wide(44), &[30, 3, 45, 0], &[0; 8], &wide(count), &wide(count)].concat());
    file.extend([wide(size), wide(start)].concat());
    file.extend([b"PK\x06\x07".as_slice(), &[0; 4], &records.to_le_bytes(), &1u32.to_le_bytes()].concat());
    let (count, size, start) =
        ((count as u16).to_le_bytes(), (size as u32).to_le_bytes(), (start as u32).to_le_bytes());
    file.extend([b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &size, &start, &[0; 2]].concat());
    file
}
