//! The wire format of protobuf: a message is a list of numbered fields, each a number or bytes.
//!
//! Nothing is copied and nothing is allocated, so that what a file asks for stays in proportion to its bytes. (Structs of a protobuf crate would
//! take some hundred bytes for each empty node of two.)

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A number in as many bytes as it needs.
    Varint(u64),
    /// Text, bytes, a message, or numbers in a row.
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
}

/// What is wrong with a message.
pub(super) type Damage = &'static str;

impl<'a> Field<'a> {
    /// # Errors
    /// A field of another kind.
    pub fn bytes(&self) -> Result<&'a [u8], Damage> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed32(_) | Value::Fixed64(_) => Err("a number where there should be bytes"),
        }
    }

    /// # Errors
    /// A field of another kind; bytes that are no text.
    pub fn text(&self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text that isn't UTF-8")
    }

    /// # Errors
    /// A field of another kind.
    pub fn integer(&self) -> Result<i64, Damage> {
        match self.value {
            Value::Varint(value) => Ok(value as i64),
            Value::Bytes(_) | Value::Fixed32(_) | Value::Fixed64(_) => Err("no whole number where there should be one"),
        }
    }

    /// # Errors
    /// A field of another kind.
    pub fn float(&self) -> Result<f32, Damage> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            Value::Bytes(_) | Value::Varint(_) | Value::Fixed64(_) => Err("no float where there should be one"),
        }
    }

    /// Adds its whole numbers, one or many in a row.
    ///
    /// # Errors
    /// A field of another kind; damaged numbers.
    pub fn integers(&self, into: &mut Vec<i64>) -> Result<(), Damage> {
        let Value::Bytes(mut bytes) = self.value else {
            into.push(self.integer()?);
            return Ok(());
        };
        while !bytes.is_empty() {
            into.push(varint(&mut bytes)? as i64);
        }
        Ok(())
    }
}

/// The fields of a message, until the first damaged one.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Damage>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = field(&mut message);
        if field.is_err() {
            message = &[];
        }
        Some(field)
    })
}

fn field<'a>(message: &mut &'a [u8]) -> Result<Field<'a>, Damage> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => Value::Varint(varint(message)?),
        1 => Value::Fixed64(array(message)?),
        2 => {
            let length = varint(message)?;
            Value::Bytes(take(message, usize::try_from(length).map_err(|_| ENDS)?)?)
        }
        5 => Value::Fixed32(array(message)?),
        _ => return Err("a field of no known kind"),
    };
    Ok(Field { number: tag >> 3, value })
}

const ENDS: Damage = "it ends within a field";

fn take<'a>(message: &mut &'a [u8], length: usize) -> Result<&'a [u8], Damage> {
    let (taken, rest) = message.split_at_checked(length).ok_or(ENDS)?;
    *message = rest;
    Ok(taken)
}

fn array<const N: usize>(message: &mut &[u8]) -> Result<[u8; N], Damage> {
    Ok(take(message, N)?.try_into().expect("so many bytes"))
}

/// Seven bits a byte, the lowest first; the highest bit says that another byte follows.
fn varint(message: &mut &[u8]) -> Result<u64, Damage> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = array(message)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<Field<'_>>, Damage> {
        fields(message).collect()
    }

    /// The examples of protobuf.dev/programming-guides/encoding.
    #[test]
    fn fields_are_read_as_the_specification_writes_them() {
        let field = |number, value| Field { number, value };
        assert_eq!(read(&[0x08, 0x96, 0x01]).unwrap(), [field(1, Value::Varint(150))]);
        let text = [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67];
        assert_eq!(read(&text).unwrap()[0].text(), Ok("testing"));
        let mut numbers = Vec::new();
        read(&[0x32, 0x06, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05]).unwrap()[0].integers(&mut numbers).unwrap();
        assert_eq!(numbers, [3, 270, 86942]);
        assert_eq!(read(&[0x15, 0, 0, 0x80, 0x3f]).unwrap()[0].float(), Ok(1.0));
        let minus_two = [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&minus_two).unwrap()[0].integer(), Ok(-2));
    }

    #[test]
    fn damaged_messages_end_with_an_error() {
        for message in [&[0x08][..], &[0x08, 0x80], &[0x12, 0x07, 0x74], &[0x15, 0], &[0x0b], &[0x08; 3], &[0xff; 11]] {
            assert!(read(message).is_err(), "{message:?}");
        }
        let huge = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&huge), Err(ENDS));
    }
}
