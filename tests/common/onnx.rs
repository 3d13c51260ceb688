//! ONNX files field by field, to say what PyTorch's exporters don't.

/// A message under way.
#[derive(Clone, Default)]
pub(crate) struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn number(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.as_ref().len() as u64);
        self.0.extend(bytes.as_ref());
        self
    }

    pub(crate) fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }
}

/// A graph whose input `x` is an image and whose output is `y`.
#[derive(Clone)]
pub(crate) struct OnnxFile {
    graph: Message,
}

impl OnnxFile {
    pub(crate) fn new(image: &[i64]) -> Self {
        Self { graph: Message::default().bytes(12, Message::default().bytes(1, "y").0) }.input("x", image)
    }

    pub(crate) fn input(mut self, name: &str, sizes: &[i64]) -> Self {
        let shape = sizes.iter().fold(Message::default(), |shape, size| {
            let size = match size {
                0 => Message::default().bytes(2, "open"),
                size => Message::default().number(1, *size),
            };
            shape.bytes(1, size.0)
        });
        let kind = Message::default().bytes(1, Message::default().number(1, 1).bytes(2, shape.0).0);
        self.graph = self.graph.bytes(11, Message::default().bytes(1, name).bytes(2, kind.0).0);
        self
    }

    /// Floats that follow from their number.
    pub(crate) fn floats(self, name: &str, sizes: &[i64]) -> Self {
        let count = sizes.iter().product::<i64>();
        let values: Vec<u8> = (0..count).flat_map(|i| ((i * 7 % 11 - 5) as f32 / 10.0).to_le_bytes()).collect();
        self.tensor(name, 1, sizes, 9, &values)
    }

    pub(crate) fn integers(self, name: &str, values: &[i64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, 7, &[values.len() as i64], 9, &bytes)
    }

    /// A tensor whose values are in a field of its own.
    pub(crate) fn tensor(mut self, name: &str, kind: i64, sizes: &[i64], field: u64, values: &[u8]) -> Self {
        let sizes = sizes.iter().fold(Message::default(), |tensor, size| tensor.number(1, *size));
        let tensor = sizes.number(2, kind).bytes(8, name).bytes(field, values);
        self.graph = self.graph.bytes(5, tensor.0);
        self
    }

    pub(crate) fn node(mut self, kind: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) -> Self {
        let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
        let node = node.bytes(2, output).bytes(3, format!("node of {output}")).bytes(4, kind);
        let node = attributes.iter().fold(node, |node, (name, value)| {
            let attribute = Message::default().bytes(1, name);
            let attribute = match value {
                Is::Number(value) => attribute.number(3, *value),
                Is::Float(value) => attribute.float(2, *value),
                Is::Text(value) => attribute.bytes(4, value),
                Is::LeftOut(kind) => attribute.number(20, *kind),
                Is::Numbers(values) => values.iter().fold(attribute, |attribute, value| attribute.number(8, *value)),
            };
            node.bytes(5, attribute.0)
        });
        self.graph = self.graph.bytes(1, node.0);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        Message::default().number(1, 9).bytes(7, &self.graph.0).0
    }
}

pub(crate) type Attribute<'a> = (&'a str, Is<'a>);

/// What an attribute is.
#[derive(Clone, Copy)]
pub(crate) enum Is<'a> {
    Number(i64),
    Float(f32),
    Text(&'a str),
    Numbers(&'a [i64]),
    /// A zero of this `AttributeProto.AttributeType`, as writers of proto3 have it.
    LeftOut(i64),
}
