//! The CPU's tensors as slices, for the kernels beside this file.

use burn::tensor::{FloatDType, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};

use crate::precision::{single, type_of};

use super::{
    Heads, Kernels, Pairs, Pixels, Unfolding, attention, bare, convolution, cross_entropy, decomposed, gelu, linear,
    norm, spatial, unfolding, wrap,
};

/// A tensor whose values lie in order.
struct Values(FlexTensor);

impl Values {
    fn of<const D: usize>(tensor: Tensor<Flex, D>) -> Self {
        let tensor = bare(tensor);
        Self(if tensor.is_contiguous() && tensor.layout().start_offset() == 0 {
            tensor
        } else {
            tensor.to_contiguous()
        })
    }

    fn slice(&self) -> &[f32] {
        // Whatever a kernel reads is f32, and was made contiguous above.
        let values = self.0.as_slice().unwrap_or_default();
        &values[..self.0.layout().num_elements()]
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    wrap(FlexTensor::from_data(TensorData::new(values, shape)))
}

/// Whether burn computes with this: the kernels are for single precision alone.
fn is_burns(operand: &Tensor<Flex, 2>) -> bool {
    #[cfg(test)]
    if BURNS.get() {
        return true;
    }
    type_of(operand) != FloatDType::F32
}

#[cfg(test)]
thread_local! {
    /// Set where this thread is to compute as a device without kernels of ours does.
    pub(crate) static BURNS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Kernels for Flex {
    fn norm_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        if is_burns(&x) {
            return decomposed::norm(x, weight, bias);
        }
        let shape = x.dims();
        let (y, moments) = norm::forward(Values::of(x).slice(), Values::of(weight).slice(), Values::of(bias).slice());
        [tensor(y, shape), tensor(moments, [shape[0], 2])]
    }

    fn norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 3] {
        let gradient = single(gradient);
        if is_burns(&x) {
            return decomposed::norm_backward(gradient, x, weight, moments);
        }
        let shape = x.dims();
        let [gradient, x, weight, moments] = [gradient, x, weight, moments].map(Values::of);
        let [of_x, of_weight, of_bias] = norm::backward(gradient.slice(), x.slice(), weight.slice(), moments.slice());
        [tensor(of_x, shape), tensor(of_weight, [1, shape[1]]), tensor(of_bias, [1, shape[1]])]
    }

    fn affine_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if is_burns(&weight) {
            return decomposed::affine(x, weight, bias);
        }
        let shape = [x.dims()[0], weight.dims()[0]];
        let [x, weight, bias] = [x, weight, bias].map(Values::of);
        tensor(linear::forward(x.slice(), weight.slice(), bias.slice()), shape)
    }

    fn affine_backward_input(gradient: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if is_burns(&weight) {
            return decomposed::affine_backward_input(gradient, weight);
        }
        let ([rows, _], [_, inputs]) = (gradient.dims(), weight.dims());
        let [gradient, weight] = [gradient, weight].map(Values::of);
        tensor(linear::backward_input(gradient.slice(), weight.slice(), inputs), [rows, inputs])
    }

    fn affine_backward_weight(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        if is_burns(&gradient) {
            return decomposed::affine_backward_weight(gradient, x);
        }
        let ([_, outputs], [_, inputs]) = (gradient.dims(), x.dims());
        let [gradient, x] = [gradient, x].map(Values::of);
        let [of_weight, of_bias] = linear::backward_weight(gradient.slice(), x.slice(), outputs);
        [tensor(of_weight, [outputs, inputs]), tensor(of_bias, [1, outputs])]
    }

    fn convolve_forward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> Tensor<Self, 2> {
        if is_burns(&weight) {
            return decomposed::convolve(x, weight, bias, pixels);
        }
        let shape = [x.dims()[0], weight.dims()[0]];
        let [x, weight, bias] = [x, weight, bias].map(Values::of);
        tensor(convolution::forward(x.slice(), weight.slice(), bias.slice(), pixels), shape)
    }

    fn convolve_backward_input(gradient: Tensor<Self, 2>, weight: Tensor<Self, 2>, pixels: Pixels) -> Tensor<Self, 2> {
        if is_burns(&weight) {
            return decomposed::convolve_backward_input(gradient, weight, pixels);
        }
        let ([rows, _], [outputs, columns]) = (gradient.dims(), weight.dims());
        let [gradient, weight] = [gradient, weight].map(Values::of);
        let of_x = convolution::backward_input(gradient.slice(), weight.slice(), outputs, pixels);
        tensor(of_x, [rows, columns / 9])
    }

    fn convolve_backward_weight(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>, pixels: Pixels) -> [Tensor<Self, 2>; 2] {
        if is_burns(&gradient) {
            return decomposed::convolve_backward_weight(gradient, x, pixels);
        }
        let ([_, outputs], [_, inputs]) = (gradient.dims(), x.dims());
        let [gradient, x] = [gradient, x].map(Values::of);
        let [of_weight, of_bias] = convolution::backward_weight(gradient.slice(), x.slice(), outputs, pixels);
        [tensor(of_weight, [outputs, 9 * inputs]), tensor(of_bias, [1, outputs])]
    }

    fn instance_norm_forward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> [Tensor<Self, 2>; 2] {
        if is_burns(&x) {
            return decomposed::instance_norm(x, weight, bias, pixels);
        }
        let shape = x.dims();
        let [x, weight, bias] = [x, weight, bias].map(Values::of);
        let (y, moments) = spatial::forward(x.slice(), weight.slice(), bias.slice(), pixels);
        [tensor(y, shape), tensor(moments, [pixels.count, 2 * shape[1]])]
    }

    fn instance_norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> [Tensor<Self, 2>; 3] {
        if is_burns(&x) {
            return decomposed::instance_norm_backward(gradient, x, weight, moments, pixels);
        }
        let shape = x.dims();
        let [gradient, x, weight, moments] = [gradient, x, weight, moments].map(Values::of);
        let [of_x, of_weight, of_bias] =
            spatial::backward(gradient.slice(), x.slice(), weight.slice(), moments.slice(), pixels);
        [tensor(of_x, shape), tensor(of_weight, [1, shape[1]]), tensor(of_bias, [1, shape[1]])]
    }

    fn unfold_forward(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        if is_burns(&x) {
            return decomposed::unfold(x, how);
        }
        let ([rows, values], squares) = (x.dims(), how.fold * how.fold);
        tensor(unfolding::forward(Values::of(x).slice(), how), [rows * squares, values / squares])
    }

    fn unfold_backward(gradient: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        if is_burns(&gradient) {
            return decomposed::unfold_backward(gradient, how);
        }
        let ([rows, channels], squares) = (gradient.dims(), how.fold * how.fold);
        tensor(unfolding::backward(Values::of(gradient).slice(), how), [rows / squares, channels * squares])
    }

    fn exact_gelu_forward(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if is_burns(&x) {
            return decomposed::gelu(x);
        }
        let shape = x.dims();
        tensor(gelu::forward(Values::of(x).slice()), shape)
    }

    fn exact_gelu_backward(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if is_burns(&x) {
            return decomposed::gelu_backward(gradient, x);
        }
        let shape = x.dims();
        tensor(gelu::backward(Values::of(gradient).slice(), Values::of(x).slice()), shape)
    }

    fn attention_forward(packed: Tensor<Self, 2>, heads: Heads) -> [Tensor<Self, 2>; 2] {
        if is_burns(&packed) {
            return decomposed::attention(packed, heads);
        }
        let [rows, columns] = packed.dims();
        let (mixed, log_sums) = attention::forward(Values::of(packed).slice(), columns, heads);
        let tokens = rows / heads.count;
        [tensor(mixed, [rows, columns / 3]), tensor(log_sums, [heads.count * heads.heads, tokens])]
    }

    fn attention_backward(
        gradient: Tensor<Self, 2>,
        packed: Tensor<Self, 2>,
        mixed: Tensor<Self, 2>,
        log_sums: Tensor<Self, 2>,
        heads: Heads,
    ) -> Tensor<Self, 2> {
        if is_burns(&packed) {
            return decomposed::attention_backward(gradient, packed, mixed, log_sums, heads);
        }
        let shape = packed.dims();
        let [gradient, packed, mixed, log_sums] = [gradient, packed, mixed, log_sums].map(Values::of);
        let (gradient, packed) = (gradient.slice(), packed.slice());
        tensor(attention::backward(gradient, packed, mixed.slice(), log_sums.slice(), shape[1], heads), shape)
    }

    fn cross_entropy_forward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
        if is_burns(&learnt) {
            return decomposed::cross_entropy(learnt, taught, pairs);
        }
        let [_, k] = learnt.dims();
        let loss = cross_entropy::forward(Values::of(learnt).slice(), Values::of(taught).slice(), k, pairs);
        tensor(vec![loss], [1])
    }

    fn cross_entropy_backward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 2> {
        if is_burns(&learnt) {
            return decomposed::cross_entropy_backward(learnt, taught, pairs);
        }
        let shape = learnt.dims();
        let gradient = cross_entropy::backward(Values::of(learnt).slice(), Values::of(taught).slice(), shape[1], pairs);
        tensor(gradient, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 250.0 - 2.0).collect()
    }

    fn random(seed: usize, rows: usize, columns: usize) -> Tensor<Flex, 2> {
        tensor(values(seed, rows * columns), [rows, columns])
    }

    /// What the decomposed form computes, in double precision: what a kernel is held to.
    fn double<const D: usize>(tensor: Tensor<Flex, D>) -> Tensor<Flex, D> {
        tensor.cast(FloatDType::F64)
    }

    fn close<const D: usize>(what: &str, found: Tensor<Flex, D>, expected: Tensor<Flex, D>) {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        assert_eq!(type_of(&expected), FloatDType::F64, "{what}: no reference in double precision");
        let (found, expected) = (Values::of(found), expected.into_data().into_vec::<f64>().expect("double precision"));
        let most = expected.iter().fold(1e-3_f64, |most, value| most.max(value.abs()));
        for (found, expected) in found.slice().iter().zip(expected) {
            let found = f64::from(*found);
            assert!((found - expected).abs() <= 2e-6 * most.max(1.0) + 2e-6 * most, "{what}: {found} {expected}");
        }
    }

    #[test]
    fn layer_norm_and_its_gradient_are_those_of_the_decomposed_form() {
        for (rows, dim) in [(1, 5), (300, 48)] {
            let (x, weight, bias) = (random(1, rows, dim), random(2, 1, dim), random(3, 1, dim));
            let [y, moments] = Flex::norm_forward(x.clone(), weight.clone(), bias.clone());
            let [expected, expected_moments] =
                decomposed::norm(double(x.clone()), double(weight.clone()), double(bias));
            close("norm", y, expected);
            close("moments", moments.clone(), expected_moments);
            let gradient = random(4, rows, dim);
            let found = Flex::norm_backward(gradient.clone(), x.clone(), weight.clone(), moments.clone());
            let expected = decomposed::norm_backward(double(gradient), double(x), double(weight), double(moments));
            for (found, expected) in found.into_iter().zip(expected) {
                close("gradient of norm", found, expected);
            }
        }
    }

    #[test]
    fn a_linear_layer_and_its_gradients_are_those_of_the_decomposed_form() {
        // Less than one part, and several with a remainder, of rows and of outputs.
        for (rows, inputs, outputs) in [(3, 5, 7), (500, 24, 150)] {
            let (x, weight, bias) = (random(1, rows, inputs), random(2, outputs, inputs), random(3, 1, outputs));
            let scale = 1.0 / (inputs as f64).sqrt();
            let (weight, gradient) = (weight * scale, random(4, rows, outputs) * scale);
            let y = Flex::affine_forward(x.clone(), weight.clone(), bias.clone());
            close("linear", y, decomposed::affine(double(x.clone()), double(weight.clone()), double(bias)));
            let of_x = Flex::affine_backward_input(gradient.clone(), weight.clone());
            let expected = decomposed::affine_backward_input(double(gradient.clone()), double(weight));
            close("gradient of a linear layer's input", of_x, expected);
            let [found, found_bias] = Flex::affine_backward_weight(gradient.clone(), x.clone());
            let [expected, expected_bias] = decomposed::affine_backward_weight(double(gradient), double(x));
            close("gradient of its weight", found / rows as f64, expected / rows as f64);
            close("gradient of its bias", found_bias / rows as f64, expected_bias / rows as f64);
        }
    }

    #[test]
    fn a_convolution_and_its_gradients_are_those_of_the_decomposed_form() {
        // An image of less than one strip, several strips with a remainder, and a single column.
        for (pixels, inputs, outputs) in [
            (Pixels { count: 2, height: 3, width: 4 }, 2, 3),
            (Pixels { count: 2, height: 23, width: 70 }, 5, 4),
            (Pixels { count: 1, height: 5, width: 1 }, 3, 2),
        ] {
            let rows = pixels.count * pixels.height * pixels.width;
            let (x, weight, bias) = (random(1, rows, inputs), random(2, outputs, 9 * inputs), random(3, 1, outputs));
            let (weight, gradient) = (weight * 0.1, random(4, rows, outputs) * 0.1);
            let y = Flex::convolve_forward(x.clone(), weight.clone(), bias.clone(), pixels);
            close(
                "convolution",
                y,
                decomposed::convolve(double(x.clone()), double(weight.clone()), double(bias), pixels),
            );
            let of_x = Flex::convolve_backward_input(gradient.clone(), weight.clone(), pixels);
            let expected = decomposed::convolve_backward_input(double(gradient.clone()), double(weight), pixels);
            close("gradient of a convolution's input", of_x, expected);
            let [found, found_bias] = Flex::convolve_backward_weight(gradient.clone(), x.clone(), pixels);
            let [expected, expected_bias] = decomposed::convolve_backward_weight(double(gradient), double(x), pixels);
            close("gradient of its weight", found / rows as f64, expected / rows as f64);
            close("gradient of its bias", found_bias / rows as f64, expected_bias / rows as f64);
        }
    }

    #[test]
    fn an_instance_norm_and_its_gradients_are_those_of_the_decomposed_form() {
        let pixels = Pixels { count: 3, height: 9, width: 11 };
        let (x, weight, bias) = (random(1, 297, 10), random(2, 1, 10), random(3, 1, 10));
        let [y, moments] = Flex::instance_norm_forward(x.clone(), weight.clone(), bias.clone(), pixels);
        let [expected, expected_moments] =
            decomposed::instance_norm(double(x.clone()), double(weight.clone()), double(bias), pixels);
        close("instance norm", y, expected);
        close("moments", moments.clone(), expected_moments);
        let gradient = random(4, 297, 10);
        let found = Flex::instance_norm_backward(gradient.clone(), x.clone(), weight.clone(), moments.clone(), pixels);
        let expected =
            decomposed::instance_norm_backward(double(gradient), double(x), double(weight), double(moments), pixels);
        for (found, expected) in found.into_iter().zip(expected) {
            close("gradient of instance norm", found / 30.0, expected / 30.0);
        }
    }

    #[test]
    fn an_unfolding_and_its_way_back_are_those_of_the_decomposed_form() {
        let how = Unfolding { pixels: Pixels { count: 2, height: 3, width: 5 }, fold: 4 };
        let x = random(1, 30, 16 * 7);
        let y = Flex::unfold_forward(x.clone(), how);
        close("unfolding", y.clone(), decomposed::unfold(double(x.clone()), how));
        close("its way back", Flex::unfold_backward(y.clone(), how), double(x));
        close("its way back", Flex::unfold_backward(y.clone(), how), decomposed::unfold_backward(double(y), how));
    }

    #[test]
    fn gelu_and_its_gradient_are_those_of_the_decomposed_form() {
        let (x, gradient) = (random(5, 7, 333) * 3.0, random(6, 7, 333));
        close("gelu", Flex::exact_gelu_forward(x.clone()), decomposed::gelu(double(x.clone())));
        close(
            "gradient of gelu",
            Flex::exact_gelu_backward(gradient.clone(), x.clone()),
            decomposed::gelu_backward(double(gradient), double(x)),
        );
    }

    #[test]
    fn attention_and_its_gradient_are_those_of_the_decomposed_form() {
        // One block of queries, and two with a remainder.
        for (tokens, heads) in [(10, Heads { count: 3, heads: 2 }), (131, Heads { count: 2, heads: 3 })] {
            let (rows, dim) = (heads.count * tokens, heads.heads * 8);
            let packed = random(7, rows, 3 * dim);
            let [mixed, log_sums] = Flex::attention_forward(packed.clone(), heads);
            let [expected, expected_sums] = decomposed::attention(double(packed.clone()), heads);
            close("attention", mixed.clone(), expected);
            close("log-sum-exp", log_sums.clone(), expected_sums);
            let gradient = random(8, rows, dim);
            let found =
                Flex::attention_backward(gradient.clone(), packed.clone(), mixed.clone(), log_sums.clone(), heads);
            close(
                "gradient of attention",
                found,
                decomposed::attention_backward(
                    double(gradient),
                    double(packed),
                    double(mixed),
                    double(log_sums),
                    heads,
                ),
            );
        }
    }

    #[test]
    fn the_cross_entropy_and_its_gradient_are_those_of_the_decomposed_form() {
        let pairs = Pairs { batch: 3, temperature: 0.1 };
        let learnt = random(9, 12, 37);
        let taught = burn::tensor::activation::softmax(random(10, 6, 37), 1);
        let loss = Flex::cross_entropy_forward(learnt.clone(), taught.clone(), pairs);
        close("loss", loss, decomposed::cross_entropy(double(learnt.clone()), double(taught.clone()), pairs));
        let found = Flex::cross_entropy_backward(learnt.clone(), taught.clone(), pairs);
        close("gradient of the loss", found, decomposed::cross_entropy_backward(double(learnt), double(taught), pairs));
    }

    #[test]
    fn the_gradients_are_finite_differences_of_the_results() {
        // In f32 a difference over 1e-2 has three or four digits.
        let step = 1e-2_f32;
        let check = |what: &str, x: &[f32], gradient: &[f32], result: &dyn Fn(&[f32]) -> f64| {
            for place in (0..x.len()).step_by(5) {
                let moved = |by: f32| {
                    let mut x = x.to_vec();
                    x[place] += by;
                    result(&x)
                };
                let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                let found = f64::from(gradient[place]);
                assert!((found - slope).abs() <= 2e-3 * (1.0 + slope.abs()), "{what} at {place}: {found} {slope}");
            }
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();

        let (x, weight, bias, toward) = (values(1, 60), values(2, 12), values(3, 12), values(4, 60));
        let (_, moments) = norm::forward(&x, &weight, &bias);
        let [of_x, of_weight, of_bias] = norm::backward(&toward, &x, &weight, &moments);
        check("norm", &x, &of_x, &|x| dot(&norm::forward(x, &weight, &bias).0, &toward));
        check("norm's bias", &bias, &of_bias, &|bias| dot(&norm::forward(&x, &weight, bias).0, &toward));
        check("norm's weight", &weight, &of_weight, &|weight| dot(&norm::forward(&x, weight, &bias).0, &toward));

        let (weight, toward4) = (values(8, 4 * 12), values(9, 5 * 4));
        let of_x = linear::backward_input(&toward4, &weight, 12);
        check("linear", &x, &of_x, &|x| dot(&linear::forward(x, &weight, &[0.5; 4]), &toward4));
        let [of_weight, of_bias] = linear::backward_weight(&toward4, &x, 4);
        check("linear's weight", &weight, &of_weight, &|weight| dot(&linear::forward(&x, weight, &[0.5; 4]), &toward4));
        check("linear's bias", &[0.5; 4], &of_bias, &|bias| dot(&linear::forward(&x, &weight, bias), &toward4));

        let pixels = Pixels { count: 1, height: 5, width: 6 };
        let (weight, toward3) = (values(10, 3 * 9 * 2), values(11, 30 * 3));
        let of_x = convolution::backward_input(&toward3, &weight, 3, pixels);
        check("convolution", &x, &of_x, &|x| dot(&convolution::forward(x, &weight, &[0.5; 3], pixels), &toward3));
        let [of_weight, of_bias] = convolution::backward_weight(&toward3, &x, 3, pixels);
        let of = |weight: &[f32], bias: &[f32]| dot(&convolution::forward(&x, weight, bias, pixels), &toward3);
        check("convolution's weight", &weight, &of_weight, &|weight| of(weight, &[0.5; 3]));
        check("convolution's bias", &[0.5; 3], &of_bias, &|bias| of(&weight, bias));

        let pixels = Pixels { count: 2, height: 3, width: 5 };
        let (weight, bias) = (values(12, 2), values(13, 2));
        let (_, moments) = spatial::forward(&x, &weight, &bias, pixels);
        let [of_x, of_weight, of_bias] = spatial::backward(&toward, &x, &weight, &moments, pixels);
        check("instance norm", &x, &of_x, &|x| dot(&spatial::forward(x, &weight, &bias, pixels).0, &toward));
        let of = |weight: &[f32], bias: &[f32]| dot(&spatial::forward(&x, weight, bias, pixels).0, &toward);
        check("instance norm's weight", &weight, &of_weight, &|weight| of(weight, &bias));
        check("instance norm's bias", &bias, &of_bias, &|bias| of(&weight, bias));

        check("gelu", &x, &gelu::backward(&toward, &x), &|x| dot(&gelu::forward(x), &toward));

        let heads = Heads { count: 1, heads: 2 };
        let (packed, toward) = (values(5, 6 * 24), values(6, 6 * 8));
        let (mixed, log_sums) = attention::forward(&packed, 24, heads);
        let gradient = attention::backward(&toward, &packed, &mixed, &log_sums, 24, heads);
        check("attention", &packed, &gradient, &|packed| dot(&attention::forward(packed, 24, heads).0, &toward));

        let pairs = Pairs { batch: 2, temperature: 0.5 };
        let learnt = values(7, 6 * 9);
        // A teacher that says something else of each image and crop.
        let taught: Vec<f32> = values(14, 4 * 9)
            .chunks_exact(9)
            .flat_map(|row| {
                let sum: f32 = row.iter().map(|value| value.exp()).sum();
                row.iter().map(move |value| value.exp() / sum).collect::<Vec<_>>()
            })
            .collect();
        let gradient = cross_entropy::backward(&learnt, &taught, 9, pairs);
        check("loss", &learnt, &gradient, &|learnt| f64::from(cross_entropy::forward(learnt, &taught, 9, pairs)));
    }
}
