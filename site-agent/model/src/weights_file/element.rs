//! The floats of files, little-endian, and the f32 that each becomes.

/// A type of float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one value.
    pub(super) fn width(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
        }
    }

    /// The values of a tensor, in row-major order, whose axes have these sizes and strides (counted in values) and whose
    /// first value is at `start`.
    ///
    /// # Panics
    /// If the tensor reaches beyond `bytes`: the caller has seen that it does not.
    pub(super) fn floats(self, bytes: &[u8], start: usize, axes: &[(usize, usize)]) -> Vec<f32> {
        match self {
            Element::F16 => gathered(bytes, half, start, axes),
            Element::Bf16 => gathered(bytes, |[low, high]| f32::from_le_bytes([0, 0, low, high]), start, axes),
            Element::F32 => gathered(bytes, f32::from_le_bytes, start, axes),
            Element::F64 => gathered(bytes, |word| f64::from_le_bytes(word) as f32, start, axes),
        }
    }
}

fn gathered<const N: usize>(
    bytes: &[u8],
    float: impl Fn([u8; N]) -> f32,
    start: usize,
    axes: &[(usize, usize)],
) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<N>();
    let count = axes.iter().map(|&(size, _)| size).product();
    let mut values = Vec::with_capacity(count);
    // An axis of no values may stand inside one of very many.
    if count > 0 {
        visit(axes, start, &mut |place| values.push(float(words[place])));
    }
    values
}

fn visit(axes: &[(usize, usize)], place: usize, each: &mut impl FnMut(usize)) {
    match axes.split_first() {
        None => each(place),
        Some((&(size, stride), inner)) => (0..size).for_each(|index| visit(inner, place + index * stride, each)),
    }
}

/// IEEE 754 binary16.
fn half(word: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(word));
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, bits & 1023);
    let magnitude = match exponent {
        0 => fraction as f32 / (1 << 24) as f32,
        31 => f32::from_bits(255 << 23 | fraction << 13),
        _ => f32::from_bits((exponent + 127 - 15) << 23 | fraction << 13),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_has_the_value_that_ieee_754_gives_it() {
        let named: [(u16, f32); 8] = [
            (0x0000, 0.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0xc000, -2.0),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in named {
            assert_eq!(half(bits.to_le_bytes()), value, "{bits:#06x}");
        }
        assert!(half([0x01, 0x7c]).is_nan() && half([0x00, 0x80]).is_sign_negative());
        let rising: Vec<f32> = (0..=0x7c00_u16).map(|bits| half(bits.to_le_bytes())).collect();
        assert!(rising.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn strides_say_which_values_a_tensor_has() {
        let bytes: Vec<u8> = (0..12).flat_map(|value| f64::from(value).to_le_bytes()).collect();
        let floats = |start, axes: &[_]| Element::F64.floats(&bytes, start, axes);
        assert_eq!(floats(4, &[(2, 4), (3, 1)]), [4.0, 5.0, 6.0, 8.0, 9.0, 10.0]);
        assert_eq!(floats(1, &[(3, 1), (2, 4)]), [1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
        assert_eq!(floats(11, &[]), [11.0]);
        assert!(floats(0, &[(usize::MAX, 1), (0, 1)]).is_empty());
    }
}
