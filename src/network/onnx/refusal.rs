//! What cannot be said, and what to do about it.

/// Why a node is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub reason: String,
    pub way_out: String,
}

pub(super) type Said<T> = Result<T, Refusal>;

/// Refuses a node.
pub(super) fn refuse<T>(reason: impl Into<String>, way_out: impl Into<String>) -> Said<T> {
    Err(Refusal { reason: reason.into(), way_out: way_out.into() })
}

/// What to do about a border around a value that its reader cannot take.
pub(super) const READ_BY_WINDOWS: &str = "only windows (of convolutions, maxima, means) read a value with a border";

const DAMAGED: &str = "export the network once more";

impl From<String> for Refusal {
    /// What doesn't fit the specification of ONNX.
    fn from(reason: String) -> Self {
        Self { reason, way_out: DAMAGED.into() }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        reason.to_string().into()
    }
}

/// What a node depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    Constants,
    /// The image as it comes in.
    Image,
    /// Outputs of layers, or their sums.
    Layers,
}

/// Refuses an operation that no layer has.
pub(super) fn unknown_kind<T>(kind: &str, reads: Reads) -> Said<T> {
    let way_out = match kind {
        "HardSwish" | "HardSigmoid" | "Sigmoid" | "Tanh" | "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "Celu" | "Gelu"
        | "Erf" | "Mish" | "Softplus" | "Softsign" | "ThresholdedRelu" | "Swish" => {
            "a layer ends in a ReLU: put one in its place and train the network anew"
        }
        "Split" => "values meet in residual sums and concatenations, and are read whole",
        "Sub" | "Div" | "Mul" if reads == Reads::Image => {
            "what normalizes images is for the recipe to say (normalization.mean, normalization.std): export the network without it"
        }
        "Sub" | "Div" | "Mul" if reads == Reads::Layers => {
            "values of layers are summed, and multiplied by weights alone: a constant factor belongs into the weights or the batch norm before it; \
             a gate (as of squeeze and excitation) has to go"
        }
        "Transpose" => "maps are channels, rows, columns: export the network so (tf2onnx --inputs-as-nchw)",
        "LayerNormalization" | "GroupNormalization" | "InstanceNormalization" | "LRN" | "RMSNormalization" => {
            "batch norm alone can be folded into weights: put it in its place and train the network anew"
        }
        "QuantizeLinear"
        | "DequantizeLinear"
        | "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger"
        | "DynamicQuantizeLinear" => "export the float network: its weights and values are quantized here",
        "If" | "Loop" | "Scan" => "export the network without control flow",
        _ if reads == Reads::Constants => "weights must be constants of the file: export with do_constant_folding=True",
        _ => "docs/onnx.md lists what a network can have",
    };
    refuse("no layer has this operation", way_out)
}
