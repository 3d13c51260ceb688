//! The bytes of a package.

use std::collections::BTreeMap;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::bounds::{Checked, check_bounds, container_error, network_error};
use super::content::{METADATA_KEY, PREDICTIONS, Package, Predictions};
use super::groups::pack;
use super::header::{Header, IndexHeader, LayerHeader, PredictionsHeader};
use super::version::{predictions_dtype, version};
use crate::error::PackageError;
use crate::groups::GroupGrid;
use crate::network::Conv;
use crate::seal::{NO_CHECKSUM, seal};

impl Package {
    /// The bytes of `model.mars`; equal packages give equal bytes.
    ///
    /// # Errors
    /// A network that [`IntegerNetwork::validate`](crate::integer::IntegerNetwork::validate) rejects or that is beyond the bounds of the format.
    pub fn to_bytes(&self) -> Checked<Vec<u8>> {
        let network = &self.network;
        network.validate().map_err(network_error)?;
        check_bounds(&network.graph)?;
        self.check_provenance()?;

        let mut tensors = BTreeMap::new();
        // A graph gives each convolution a name of its own.
        let mut insert = |name: String, dtype, shape, data| tensors.insert(name, OwnTensor { dtype, shape, data });
        let mut indices = Vec::new();
        for (Conv { name, shape, .. }, conv) in network.convs() {
            let (index, weights) = pack(&GroupGrid::new(network.group, &shape), &conv.weights, conv.weight_bits);
            let bias: Vec<u8> = conv.bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
            let codes: Vec<u8> = index.iter().flat_map(|index| index.bytes.iter().copied()).collect();
            insert(format!("{name}.bias"), Dtype::I32, conv.bias.len(), bias);
            insert(format!("{name}.index"), Dtype::U8, codes.len(), codes);
            insert(format!("{name}.weights"), Dtype::U8, weights.len(), weights);
            indices.push(index.iter().map(|index| IndexHeader { code: index.code, bits: index.bit_len }).collect());
        }
        if let Some(Predictions { classes, .. }) = &self.predictions {
            let dtype = predictions_dtype(network.classes.len());
            let width = dtype.bitsize() / 8;
            let bytes = classes.iter().flat_map(|class| class.to_le_bytes().into_iter().take(width)).collect();
            insert(PREDICTIONS.into(), dtype, classes.len(), bytes);
        }

        let mut indices = indices.into_iter();
        let header = Header {
            version: version(network),
            sha256: NO_CHECKSUM.into(),
            network: network.graph.spec().clone(),
            zero_points: network.zero_points.clone(),
            classes: network.classes.clone(),
            group: network.group,
            layers: (network.graph.nodes().iter().zip(&network.layers))
                .map(|(node, layer)| LayerHeader::new(node.op, layer, &mut indices))
                .collect(),
            predictions: self.predictions.as_ref().map(|Predictions { data_sha256, chip_sha256, .. }| {
                PredictionsHeader { data_sha256: data_sha256.clone(), chip_sha256: chip_sha256.clone() }
            }),
            provenance: self.provenance.clone(),
        };
        let text = serde_json::to_string(&header).map_err(|error| PackageError::Header(error.to_string()))?;
        let views = tensors
            .iter()
            .map(|(name, tensor)| Ok((name, tensor.view()?)))
            .collect::<std::result::Result<Vec<_>, SafeTensorError>>()
            .map_err(container_error)?;
        let metadata = [(METADATA_KEY.to_owned(), text)].into();
        let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(container_error)?;
        // The header starts with the version and the checksum, so this is the first run of so many zeros.
        seal(&mut bytes).ok_or_else(|| PackageError::Header("it holds no checksum".into()))?;
        Ok(bytes)
    }
}

/// A tensor that is going to be written.
struct OwnTensor {
    dtype: Dtype,
    shape: usize,
    data: Vec<u8>,
}

impl OwnTensor {
    fn view(&self) -> std::result::Result<TensorView<'_>, SafeTensorError> {
        TensorView::new(self.dtype, vec![self.shape], &self.data)
    }
}
