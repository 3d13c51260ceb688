//! Whole numbers: shapes, places and axes.

/// A small tensor of whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Integers {
    pub sizes: Vec<usize>,
    pub values: Vec<i64>,
}

impl Integers {
    /// Most numbers of a tensor, and its largest size: with a size of 0 beside it, a size counts nothing.
    pub const MOST: usize = 64;
    /// Most sizes of a tensor.
    pub const MOST_SIZES: usize = 8;

    /// A list.
    pub fn list(values: Vec<i64>) -> Self {
        Self { sizes: vec![values.len()], values }
    }

    /// One number as a list.
    pub fn expand(&self, sizes: &[i64]) -> Result<Self, String> {
        match (&self.values[..], sizes) {
            ([value], [count @ 0..=64]) => Ok(Self::list(vec![*value; *count as usize])),
            (_, [1]) => Ok(self.clone()),
            _ => Err("it repeats more than one number".into()),
        }
    }

    pub fn reshape(&self, sizes: &[i64]) -> Result<Self, String> {
        let old: Vec<i64> = self.sizes.iter().map(|size| *size as i64).collect();
        Ok(Self { sizes: reshaped(&old, sizes, false)?, values: self.values.clone() })
    }

    pub fn transpose(&self) -> Result<Self, String> {
        match self.sizes[..] {
            [] | [_] => Ok(self.clone()),
            [rows, columns] => {
                let values = (0..columns).flat_map(|x| (0..rows).map(move |y| y * columns + x));
                Ok(Self { sizes: vec![columns, rows], values: values.map(|place| self.values[place]).collect() })
            }
            _ => Err("it has more than two dimensions".into()),
        }
    }

    /// Rows by their number.
    pub fn gather(&self, rows: &Self) -> Result<Self, String> {
        let (&count, row_sizes) = self.sizes.split_first().ok_or("it takes from what is no list")?;
        let row = row_sizes.iter().product::<usize>();
        let mut values = Vec::new();
        for number in &rows.values {
            let place = place(*number, count).ok_or_else(|| format!("it takes number {number} of {count}"))?;
            if values.len() + row > Self::MOST {
                return Err(too_many());
            }
            values.extend_from_slice(&self.values[place * row..][..row]);
        }
        Ok(Self { sizes: [&rows.sizes, row_sizes].concat(), values })
    }

    /// Every `step`-th row from a start to an end, forwards or backwards.
    pub fn slice(&self, ends: [&Self; 2], axes: Option<&Self>, steps: Option<&Self>) -> Result<Self, String> {
        let one =
            |list: &Self| if list.values.len() == 1 { Ok(list.values[0]) } else { Err("it cuts along several axes") };
        if axes.map(one).transpose()?.is_some_and(|axis| axis != 0 && axis != -(self.sizes.len() as i64)) {
            return Err("it cuts along another axis than the first".into());
        }
        let (&count, row_sizes) = self.sizes.split_first().ok_or("it cuts what is no list")?;
        let row = row_sizes.iter().product::<usize>();
        let (start, end, step) = (one(ends[0])?, one(ends[1])?, steps.map(one).transpose()?.unwrap_or(1));
        let count = count as i64;
        let from_end = |place: i64| if place < 0 { place.saturating_add(count) } else { place };
        let taken: Vec<i64> = match step {
            0 => return Err("its step is 0".into()),
            1.. => (from_end(start).clamp(0, count)..from_end(end).clamp(0, count)).collect(),
            _ => (from_end(end).clamp(-1, count - 1) + 1..from_end(start).clamp(-1, count - 1) + 1).rev().collect(),
        };
        let step = usize::try_from(step.unsigned_abs()).map_err(|_| "its step is too large")?;
        let taken: Vec<i64> = taken.into_iter().step_by(step).collect();
        let values = taken.iter().flat_map(|place| &self.values[*place as usize * row..][..row]).copied().collect();
        Ok(Self { sizes: [&[taken.len()], row_sizes].concat(), values })
    }

    pub fn combine(&self, other: &Self, kind: &str) -> Result<Self, String> {
        let (long, short) = if self.values.len() < other.values.len() { (other, self) } else { (self, other) };
        if short.values.len() != 1 && short.sizes != long.sizes {
            return Err("its inputs have different sizes".into());
        }
        let value = |list: &Self, place: usize| list.values[if list.values.len() == 1 { 0 } else { place }];
        let pair = |place: usize| {
            let (a, b) = (value(self, place), value(other, place));
            match kind {
                "Add" => a.checked_add(b),
                "Sub" => a.checked_sub(b),
                "Mul" => a.checked_mul(b),
                _ => a.checked_div(b),
            }
        };
        let values: Option<Vec<i64>> = (0..long.values.len()).map(pair).collect();
        Ok(Self { sizes: long.sizes.clone(), values: values.ok_or("a number beyond 64 bits")? })
    }
}

pub(super) fn too_many() -> String {
    format!("more than {} numbers, where shapes have a few", Integers::MOST)
}

/// A place that may be counted from the end.
fn place(number: i64, count: usize) -> Option<usize> {
    let place = if number < 0 { number.checked_add(count as i64)? } else { number };
    usize::try_from(place).ok().filter(|place| *place < count)
}

/// Sizes without axes of size 1: those, or all where none are named.
pub(super) fn squeezed(sizes: &[usize], axes: &[i64]) -> Result<Vec<usize>, String> {
    let named: Option<Vec<usize>> = axes.iter().map(|axis| place(*axis, sizes.len())).collect();
    let named = named.filter(|named| named.iter().all(|axis| sizes[*axis] == 1)).ok_or("an axis isn't of size 1")?;
    let goes = |axis: usize| if axes.is_empty() { sizes[axis] == 1 } else { named.contains(&axis) };
    Ok((0..sizes.len()).filter(|axis| !goes(*axis)).map(|axis| sizes[axis]).collect())
}

/// Sizes with axes of size 1 more.
pub(super) fn unsqueezed(sizes: &[usize], axes: &[i64]) -> Result<Vec<usize>, String> {
    let count = sizes.len() + axes.len();
    let named: Option<Vec<usize>> = axes.iter().map(|axis| place(*axis, count)).collect();
    let named = named.filter(|_| count <= Integers::MOST).ok_or("an axis that cannot be")?;
    let mut old = sizes.iter().copied();
    Ok((0..count).map(|axis| if named.contains(&axis) { 1 } else { old.next().unwrap_or(1) }).collect())
}

/// New sizes of as many values: -1 stands for what is left, and 0 for the old size unless it is `literal`.
pub(super) fn reshaped(old: &[i64], new: &[i64], literal: bool) -> Result<Vec<usize>, String> {
    let mismatch = || format!("{old:?} doesn't become {new:?}");
    if new.len() > Integers::MOST {
        return Err(mismatch());
    }
    let size = |(axis, size): (usize, &i64)| match size {
        0 if !literal => old.get(axis).copied(),
        size => Some(*size),
    };
    let sizes: Option<Vec<i64>> = new.iter().enumerate().map(size).collect();
    let mut sizes = sizes.ok_or_else(mismatch)?;
    let product = |sizes: &[i64]| sizes.iter().try_fold(1i64, |product, size| product.checked_mul(*size));
    let all = product(old).ok_or_else(mismatch)?;
    if let Some(open) = sizes.iter().position(|size| *size == -1) {
        sizes[open] = 1;
        let others = product(&sizes).filter(|others| *others > 0 && all % others == 0).ok_or_else(mismatch)?;
        sizes[open] = all / others;
    }
    if product(&sizes) != Some(all) {
        return Err(mismatch());
    }
    let sizes: Option<Vec<usize>> = sizes.into_iter().map(|size| usize::try_from(size).ok()).collect();
    sizes.ok_or_else(mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, values: &[i64]) -> Integers {
        Integers { sizes: vec![rows, values.len() / rows], values: values.into() }
    }

    /// What PyTorch's older exporter computes for `F.pad(x, (0, 0, 0, 0, 4, 5))`: pairs in reverse become fronts and backs.
    #[test]
    fn pads_are_turned_around() {
        let pads = Integers::list(vec![0, 0, 0, 0, 4, 5, 0, 0]).reshape(&[-1, 2]).unwrap();
        let [start, end, axis, step] = [-1, -i64::MAX, 0, -1].map(|value| Integers::list(vec![value]));
        let turned = pads.slice([&start, &end], Some(&axis), Some(&step)).unwrap();
        assert_eq!(turned, matrix(4, &[0, 0, 4, 5, 0, 0, 0, 0]));
        assert_eq!(turned.transpose().unwrap().reshape(&[-1]).unwrap().values, [0, 4, 0, 0, 0, 5, 0, 0]);
    }

    #[test]
    fn sizes_are_reshaped_as_onnx_says() {
        assert_eq!(reshaped(&[2, 8, 3, 3], &[0, -1], false), Ok(vec![2, 72]));
        assert_eq!(reshaped(&[2, 8, 3, 3], &[-1, 72], true), Ok(vec![2, 72]));
        for new in [&[0, 0, 0, 0, 0][..], &[-1, 5], &[i64::MAX, i64::MAX], &[-2, -72], &[2, 71]] {
            assert!(reshaped(&[2, 8, 3, 3], new, false).is_err(), "{new:?}");
        }
        assert_eq!(squeezed(&[1, 8, 1, 1], &[2, -1]), Ok(vec![1, 8]));
        assert_eq!(unsqueezed(&[8], &[0, -1]), Ok(vec![1, 8, 1]));
        assert!(squeezed(&[1, 8], &[1]).is_err() && unsqueezed(&[8], &[5]).is_err());
    }

    #[test]
    fn lists_are_cut_as_python_cuts_them() {
        let list = Integers::list(vec![1, 2, 3, 4, 5]);
        let cut = |start, end, step| {
            let [start, end, step] = [start, end, step].map(|value| Integers::list(vec![value]));
            list.slice([&start, &end], None, Some(&step)).unwrap().values
        };
        assert_eq!(cut(1, i64::MAX, 2), [2, 4]);
        assert_eq!(cut(-3, -1, 1), [3, 4]);
        assert_eq!(cut(-1, i64::MIN, -2), [5, 3, 1]);
        assert!(cut(4, 2, 1).is_empty());
    }
}
