//! Test vectors: what each layer stores for some images, to hold RTL or a chip against.

use std::path::Path;

use rayon::prelude::*;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::images::check_images;
use crate::data::{ImageShape, Split};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::hardware::{Hardware, MacroNetwork};
use crate::integer::{Codes, IntegerNetwork, Reference};
use crate::network::MapShape;
use crate::observer::{Observer, Work};

/// Images that run at a time.
const BATCH: usize = 32;

/// What each layer stores for some images on a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// How many images.
    pub images: usize,
    /// The arrays, by name: `images`, `labels`, each stored value as `LAYER.uBITS`, `logits` of the macro model and `logits.integer` of the reference.
    pub arrays: Vec<Vector>,
    /// The first layer that stores other codes on the chip than in the integer network, as behind a converter that loses something.
    pub first_difference: Option<String>,
}

/// An array of test vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Name.
    pub name: String,
    /// Type of its values, which lie in little endian.
    pub dtype: Dtype,
    /// `[image]`, `[image][class]` or `[image][channel][height][width]`.
    pub shape: Vec<usize>,
    /// Its values.
    pub bytes: Vec<u8>,
}

/// What the first `images` test images become on the chip, layer by layer.
///
/// # Errors
/// Those of [`validate`](super::validate).
pub fn vectors(
    network: &IntegerNetwork,
    hardware: &Hardware,
    test: &Split,
    images: usize,
    observer: &dyn Observer,
) -> Result<Vectors> {
    let images = check_images(network, test, Some(images))?;
    let (reference, chip) = (Reference::new(network)?, MacroNetwork::new(network, hardware)?);
    let (len, stored) = (test.shape.len(), network.stored());
    let bytes = &test.images[..images * len];
    let mut codes = vec![Vec::new(); stored.len()];
    let (mut on_chip, mut integer) = (Vec::new(), Vec::new());
    let mut first_difference = stored.len();
    let work = Work::begin(observer, "writing", images);
    for (batch, bytes) in bytes.chunks(BATCH * len).enumerate() {
        let of_image = |(index, image)| Ok([chip.codes(batch * BATCH + index, image)?, reference.codes(image)]);
        let found: Vec<[Codes; 2]> = bytes.par_chunks_exact(len).enumerate().map(of_image).collect::<Result<_>>()?;
        for [found, expected] in found {
            let differs = found.stored.iter().zip(&expected.stored).position(|(found, expected)| found != expected);
            first_difference = first_difference.min(differs.unwrap_or(stored.len()));
            for ((codes, values), (node, _)) in codes.iter_mut().zip(found.stored).zip(&stored) {
                let MapShape { channels, height, width } = network.graph.nodes()[*node].output;
                ImageShape { channels, height, width }.extend_channels_first(codes, &values);
            }
            on_chip.extend(found.logits);
            integer.extend(expected.logits);
        }
        work.advances(on_chip.len() / network.classes.len());
    }
    drop(work);
    let nodes = network.graph.nodes();
    let shape = |map: MapShape| vec![images, map.channels, map.height, map.width];
    let of_bytes = |name: String, map, bytes| Vector { name, dtype: Dtype::U8, shape: shape(map), bytes };
    let logits = |name: &str, values: Vec<i32>| Vector {
        name: name.into(),
        dtype: Dtype::I32,
        shape: vec![images, network.classes.len()],
        bytes: values.into_iter().flat_map(i32::to_le_bytes).collect(),
    };
    let labels = Vector {
        name: "labels".into(),
        dtype: Dtype::U16,
        shape: vec![images],
        bytes: test.labels[..images].iter().flat_map(|label| label.to_le_bytes()).collect(),
    };
    let mut arrays = vec![of_bytes("images".into(), network.graph.image(), bytes.to_vec()), labels];
    arrays.extend(
        stored.iter().zip(codes).map(|((node, bits), codes)| {
            of_bytes(format!("{}.u{bits}", nodes[*node].name), nodes[*node].output, codes)
        }),
    );
    let differs = on_chip != integer;
    arrays.extend([logits("logits", on_chip), logits("logits.integer", integer)]);
    let last = || nodes.last().filter(|_| differs).map(|node| node.name.clone());
    let first = stored.get(first_difference).map(|(node, _)| nodes[*node].name.clone());
    Ok(Vectors { images, arrays, first_difference: first.or_else(last) })
}

impl Vectors {
    /// Writes a safetensors file, beside its place first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let views = self.arrays.iter().map(|Vector { name, dtype, shape, bytes }| {
            Ok((name.clone(), TensorView::new(*dtype, shape.clone(), bytes)?))
        });
        let views = views.collect::<std::result::Result<Vec<_>, SafeTensorError>>();
        let bytes = views.and_then(|views| safetensors::serialize(views, None));
        write_atomically(path, &bytes.map_err(|error| Error::file(path, error.to_string()))?)
    }
}
