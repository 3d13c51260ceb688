//! Pooling, done by the digital part beside the array. Maps are `[pixel][channel]`.

use crate::network::{PoolShape, Window};

/// Maximum over windows; the border never wins.
pub(super) fn max_pool(input: &[u8], pool: PoolShape, output: &mut [u8]) {
    output.fill(0);
    for_each_value(input, pool, output, |largest, value| *largest = value.max(*largest));
}

/// Sums over windows, code less zero point; a border adds nothing.
pub(super) fn sum_pool(input: &[u8], zero_point: i64, pool: PoolShape, sums: &mut [i64]) {
    sums.fill(0);
    for_each_value(input, pool, sums, |sum, value| *sum += i64::from(value) - zero_point);
}

/// Takes each value of each window into its output.
fn for_each_value<T>(input: &[u8], pool: PoolShape, output: &mut [T], take: impl Fn(&mut T, u8)) {
    let PoolShape { input: from, output: to, window } = pool;
    let Window { kernel, stride, padding: [[top, _], [left, _]] } = window;
    for (pixel, output) in output.chunks_exact_mut(to.channels).enumerate() {
        let [y, x] = [pixel / to.width * stride[0], pixel % to.width * stride[1]];
        for y in y.max(top)..(y + kernel[0]).min(from.height + top) {
            for x in x.max(left)..(x + kernel[1]).min(from.width + left) {
                let values = &input[((y - top) * from.width + x - left) * from.channels..][..from.channels];
                output.iter_mut().zip(values).for_each(|(output, value)| take(output, *value));
            }
        }
    }
}
