//! How the window of a kernel or of a pooling layer moves over a map, and how a description writes it.
//!
//! What has two sides is for rows first, then for columns. Where both are the same, one number says it.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of pixels for rows and one for columns: `3` or `[3, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides(pub [usize; 2]);

/// Pixels around a map, before and behind its rows, then its columns: `1`, `[1, 0]` for rows and columns, or `[top, left, bottom, right]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border(pub [[usize; 2]; 2]);

/// A window over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next, of rows and of columns.
    pub stride: [usize; 2],
    /// The map's border: `[[top, bottom], [left, right]]`.
    pub padding: [[usize; 2]; 2],
}

impl Window {
    /// A square window with the same stride and border both ways.
    pub fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [[padding; 2]; 2] }
    }

    /// Values in it.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether each pixel of a map is in one window, and no border in any.
    pub fn tiles(&self, map: [usize; 2]) -> bool {
        let whole = |side: usize| map[side].is_multiple_of(self.kernel[side]);
        !self.has_border() && self.stride == self.kernel && whole(0) && whole(1)
    }

    /// Whether the map has a border.
    pub fn has_border(&self) -> bool {
        self.padding != [[0; 2]; 2]
    }

    /// Rows and columns of a map with its border.
    pub fn bordered(&self, map: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|side| map[side] + self.padding[side][0] + self.padding[side][1])
    }

    /// How many windows a map has below and beside each other; none where the map is smaller than one.
    pub fn windows(&self, map: [usize; 2]) -> Option<[usize; 2]> {
        let bordered = self.bordered(map);
        let along = |side: usize| Some(bordered[side].checked_sub(self.kernel[side])? / self.stride[side] + 1);
        Some([along(0)?, along(1)?])
    }
}

impl Sides {
    /// One pixel both ways.
    pub(super) fn one() -> Self {
        Self([1; 2])
    }

    pub(super) fn is_one(&self) -> bool {
        *self == Self::one()
    }

    /// Whether both sides are the same.
    pub fn is_square(&self) -> bool {
        self.0[0] == self.0[1]
    }
}

impl Border {
    /// Whether all sides are the same.
    pub fn is_even(&self) -> bool {
        let Self([[top, bottom], [left, right]]) = *self;
        [bottom, left, right] == [top; 3]
    }

    /// Whether there are no pixels around the map.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<usize> for Sides {
    fn from(size: usize) -> Self {
        Self([size; 2])
    }
}

impl From<usize> for Border {
    fn from(size: usize) -> Self {
        Self([[size; 2]; 2])
    }
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self([height, width]) if height == width => write!(f, "{height}"),
            Self([height, width]) => write!(f, "{height} x {width}"),
        }
    }
}

impl fmt::Display for Border {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self([[top, bottom], [left, right]]) = *self;
        match self.is_even() {
            true => write!(f, "{top}"),
            false => write!(f, "{top} above, {bottom} below, {left} left, {right} right"),
        }
    }
}

impl Serialize for Sides {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self([height, width]) if height == width => numbers(serializer, &[height]),
            Self(sides) => numbers(serializer, &sides),
        }
    }
}

impl Serialize for Border {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self([[top, bottom], [left, right]]) = *self;
        match self.is_even() {
            true => numbers(serializer, &[top]),
            false if top == bottom && left == right => numbers(serializer, &[top, left]),
            false => numbers(serializer, &[top, left, bottom, right]),
        }
    }
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "one number, or one for rows and one for columns";
        deserializer.deserialize_any(Numbers {
            expected,
            read: |numbers| match *numbers {
                [size] => Some(Self([size; 2])),
                [rows, columns] => Some(Self([rows, columns])),
                _ => None,
            },
        })
    }
}

impl<'de> Deserialize<'de> for Border {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "one number, one for rows and one for columns, or [top, left, bottom, right]";
        deserializer.deserialize_any(Numbers {
            expected,
            read: |numbers| match *numbers {
                [size] => Some(Self([[size; 2]; 2])),
                [rows, columns] => Some(Self([[rows; 2], [columns; 2]])),
                [top, left, bottom, right] => Some(Self([[top, bottom], [left, right]])),
                _ => None,
            },
        })
    }
}

/// One number as such, several as a list.
fn numbers<S: Serializer>(serializer: S, numbers: &[usize]) -> Result<S::Ok, S::Error> {
    if let [number] = *numbers {
        return number.serialize(serializer);
    }
    let mut list = serializer.serialize_seq(Some(numbers.len()))?;
    for number in numbers {
        list.serialize_element(number)?;
    }
    list.end()
}

/// Reads one number or a list of numbers.
struct Numbers<T> {
    expected: &'static str,
    read: fn(&[usize]) -> Option<T>,
}

impl<T> Numbers<T> {
    fn single<E: serde::de::Error>(self, number: impl TryInto<usize> + fmt::Display + Copy) -> Result<T, E> {
        let size = number.try_into().map_err(|_| E::custom(format!("{number} is no number of pixels")))?;
        Ok((self.read)(&[size]).expect("one number is both sides"))
    }
}

impl<'de, T> Visitor<'de> for Numbers<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.single(number)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.single(number)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
            if numbers.len() > 4 {
                break;
            }
        }
        // One number in a list says no more than the number.
        let read = if numbers.len() == 1 { None } else { (self.read)(&numbers) };
        read.ok_or_else(|| serde::de::Error::invalid_length(numbers.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        sides: Sides,
        border: Border,
    }

    #[test]
    fn the_shortest_spelling_is_written_and_every_one_is_read() {
        for (read, sides, border, written) in [
            ("sides = 3\nborder = 1\n", [3, 3], [[1, 1], [1, 1]], None),
            ("sides = [3, 1]\nborder = [1, 0]\n", [3, 1], [[1, 1], [0, 0]], None),
            ("sides = [2, 2]\nborder = [4, 4]\n", [2, 2], [[4, 4], [4, 4]], Some("sides = 2\nborder = 4\n")),
            ("sides = 1\nborder = [1, 2, 3, 4]\n", [1, 1], [[1, 3], [2, 4]], None),
            ("sides = 1\nborder = [1, 2, 1, 2]\n", [1, 1], [[1, 1], [2, 2]], Some("sides = 1\nborder = [1, 2]\n")),
        ] {
            let both: Both = toml::from_str(read).unwrap();
            assert_eq!(both, Both { sides: Sides(sides), border: Border(border) });
            assert_eq!(toml::to_string(&both).unwrap(), written.unwrap_or(read));
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_what_is_one() {
        for (read, message) in [
            ("sides = -1\nborder = 0", "-1 is no number of pixels"),
            ("sides = [1, 2, 3]\nborder = 0", "expected one number, or one for rows and one for columns"),
            ("sides = [1]\nborder = 0", "invalid length 1"),
            ("sides = 1\nborder = [1, 2, 3]", "[top, left, bottom, right]"),
            ("sides = 1\nborder = [1, 2, 3, 4, 5, 6]", "invalid length 5"),
            ("sides = 1.5\nborder = 0", "floating point `1.5`, expected one number"),
            ("sides = [1, -2]\nborder = 0", "-2"),
        ] {
            let error = toml::from_str::<Both>(read).unwrap_err().to_string();
            assert!(error.contains(message), "{read}: {error}");
        }
    }

    #[test]
    fn windows_lie_within_the_map_and_its_border() {
        let window = Window { kernel: [3, 1], stride: [2, 3], padding: [[1, 0], [0, 2]] };
        assert_eq!(window.bordered([4, 5]), [5, 7]);
        assert_eq!(window.windows([4, 5]), Some([2, 3]));
        assert_eq!(window.windows([1, 5]), None);
        assert_eq!(Window::square(3, 1, 1).windows([8, 7]), Some([8, 7]));
    }
}
