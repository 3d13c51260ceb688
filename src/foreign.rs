//! Files of other kinds that people take for a checkpoint, an ONNX file or a package, told by their first bytes.

/// First bytes, and what a file is that begins with them.
const KINDS: [(&[u8], &str); 6] = [
    (b"version https://git-lfs", "it is a pointer of Git LFS: `git lfs pull` fetches the file that it stands for"),
    (
        b"\x93NUMPY",
        "it is an array of numpy: save all arrays of the network by name, as safetensors or with torch.save",
    ),
    (b"\x89HDF\r\n", "it is HDF5, as Keras saves it: export the network as ONNX"),
    (b"\x1f\x8b", "it is packed by gzip: unpack it"),
    (b"<!", "it is a web page, which came in place of the file: download it anew"),
    (b"<html", "it is a web page, which came in place of the file: download it anew"),
];

/// What a file of none of our kinds is, and what to do about it; none where its first bytes don't tell.
pub(crate) fn kind(start: &[u8]) -> Option<&'static str> {
    if start.is_empty() {
        return Some("it is empty");
    }
    KINDS.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, kind)| *kind)
}
