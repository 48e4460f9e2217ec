//! Losses of clinical tasks on the host: from logits and right answers to a loss and its gradient.

/// Logits' softmax, row by row, `[rows, outputs]`.
pub fn softmax(logits: &[f32], outputs: usize) -> Vec<f32> {
    let mut all = logits.to_vec();
    for row in all.chunks_exact_mut(outputs) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|value| *value = (*value - largest).exp());
        let total: f32 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= total);
    }
    all
}

/// Cross-entropy of a class a row, with label smoothing (Szegedy et al. 2016): the mean over rows in nats, and its gradient.
pub(crate) fn classes(logits: &[f32], targets: &[usize], outputs: usize, smoothing: f64) -> (f64, Vec<f32>) {
    let mut gradient = softmax(logits, outputs);
    let (rows, shared) = (targets.len(), smoothing / outputs as f64);
    let mut loss = 0.0;
    for ((row, logits), target) in gradient.chunks_exact_mut(outputs).zip(logits.chunks_exact(outputs)).zip(targets) {
        let log_sum = log_sum(logits);
        for (class, (value, logit)) in row.iter_mut().zip(logits).enumerate() {
            let wanted = shared + if class == *target { 1.0 - smoothing } else { 0.0 };
            loss -= wanted * (f64::from(*logit) - log_sum);
            *value = (*value - wanted as f32) / rows as f32;
        }
    }
    (loss / rows as f64, gradient)
}

/// Cross-entropy of every pixel plus one minus the soft Dice of every structure over the batch (Milletari et al. 2016), and
/// their gradient. Class 0 is the background; a structure that neither the masks nor the network have counts as found.
pub(crate) fn pixels(logits: &[f32], mask: &[u8], outputs: usize) -> (f64, Vec<f32>) {
    // Keeps the overlap of a structure that is hardly there from jumping.
    const SMOOTH: f64 = 1.0;
    let said = softmax(logits, outputs);
    let (mut both, mut sizes) = (vec![0.0_f64; outputs], vec![0.0_f64; outputs]);
    let mut loss = 0.0;
    for (row, &class) in said.chunks_exact(outputs).zip(mask) {
        loss -= f64::from(row[usize::from(class)].max(f32::MIN_POSITIVE)).ln();
        both[usize::from(class)] += f64::from(row[usize::from(class)]);
        sizes[usize::from(class)] += 1.0;
        sizes.iter_mut().zip(row).for_each(|(size, value)| *size += f64::from(*value));
    }
    let (rows, structures) = (mask.len() as f64, (outputs - 1) as f64);
    let mut total = loss / rows;
    // The slope of a structure's Dice in what is said of a pixel: of it (first), and of any other (second).
    let mut slopes = vec![[0.0_f64; 2]; outputs];
    for class in 1..outputs {
        let (over, under) = (2.0 * both[class] + SMOOTH, sizes[class] + SMOOTH);
        total += (1.0 - over / under) / structures;
        let away = over / (under * under) / structures;
        slopes[class] = [away - 2.0 / under / structures, away];
    }
    let mut gradient = said;
    for (row, &class) in gradient.chunks_exact_mut(outputs).zip(mask) {
        let slope = |place: usize| slopes[place][usize::from(place != usize::from(class))] as f32;
        let mean: f32 = row.iter().enumerate().map(|(place, value)| value * slope(place)).sum();
        for (place, value) in row.iter_mut().enumerate() {
            let wanted = f32::from(u8::from(place == usize::from(class)));
            *value = (*value - wanted) / rows as f32 + *value * (slope(place) - mean);
        }
    }
    (total, gradient)
}

/// Cross-entropy of where a landmark is, over the pixels of its image, to a normal distribution around its place: the mean
/// over the landmarks that are there, and its gradient. `logits` is `[images * side * side, landmarks]`, `targets`
/// `[images * landmarks]` of (row, column) in pixels.
pub(crate) fn places(
    logits: &[f32],
    targets: &[Option<[f64; 2]>],
    landmarks: usize,
    side: usize,
    sigma: f64,
) -> (f64, Vec<f32>) {
    let mut gradient = vec![0.0; logits.len()];
    let present = targets.iter().flatten().count().max(1) as f64;
    let mut loss = 0.0;
    let area = side * side;
    for (index, target) in targets.iter().enumerate() {
        let Some([row, column]) = *target else { continue };
        let first = index / landmarks * area * landmarks + index % landmarks;
        let places = || (0..area).map(|pixel| first + pixel * landmarks);
        let values: Vec<f32> = places().map(|place| logits[place]).collect();
        let log_sum = log_sum(&values);
        let near = |pixel: usize| {
            let (down, across) = ((pixel / side) as f64 - row, (pixel % side) as f64 - column);
            (-(down * down + across * across) / (2.0 * sigma * sigma)).exp()
        };
        let total: f64 = (0..area).map(near).sum::<f64>().max(f64::MIN_POSITIVE);
        for (pixel, place) in places().enumerate() {
            let (wanted, log) = (near(pixel) / total, f64::from(logits[place]) - log_sum);
            loss -= wanted * log;
            gradient[place] = ((log.exp() - wanted) / present) as f32;
        }
    }
    (loss / present, gradient)
}

/// Where a landmark is, (row, column) in pixels: the mean place around the largest logit, weighted by what the network says.
/// `logits` is `[side * side, landmarks]` of one image.
pub fn place_of(logits: &[f32], landmark: usize, landmarks: usize, side: usize) -> [f64; 2] {
    // Wide enough for a landmark's normal distribution, narrow enough that another maximum has no part in it.
    const REACH: usize = 4;
    let at = |row: usize, column: usize| f64::from(logits[(row * side + column) * landmarks + landmark]);
    let value = |pixel: usize| at(pixel / side, pixel % side);
    let top = (1..side * side).fold(0, |top, pixel| if value(pixel) > value(top) { pixel } else { top });
    let (row, column) = (top / side, top % side);
    let largest = at(row, column);
    let near = |middle: usize| middle.saturating_sub(REACH)..(middle + REACH + 1).min(side);
    let (mut sum, mut place) = (0.0, [0.0, 0.0]);
    for (down, across) in near(row).flat_map(|down| near(column).map(move |across| (down, across))) {
        let weight = (at(down, across) - largest).exp();
        sum += weight;
        place[0] += weight * down as f64;
        place[1] += weight * across as f64;
    }
    place.map(|value| value / sum)
}

fn log_sum(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 250.0 - 2.0).collect()
    }

    type Loss<'a> = &'a dyn Fn(&[f32]) -> (f64, Vec<f32>);

    fn check(what: &str, logits: &[f32], loss: Loss<'_>) {
        let gradient = loss(logits).1;
        for place in 0..logits.len() {
            let moved = |by: f32| {
                let mut logits = logits.to_vec();
                logits[place] += by;
                loss(&logits).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let found = f64::from(gradient[place]);
            assert!((found - slope).abs() <= 2e-4 * (1.0 + slope.abs()), "{what} at {place}: {found} {slope}");
        }
    }

    #[test]
    fn the_gradients_are_finite_differences_of_the_losses() {
        let logits = values(1, 5 * 3);
        check("classes", &logits, &|logits| classes(logits, &[0, 2, 1, 1, 0], 3, 0.1));
        let logits = values(2, 12 * 4);
        check("pixels", &logits, &|logits| pixels(logits, &[0, 1, 1, 0, 2, 2, 0, 0, 1, 2, 2, 0], 4));
        let logits = values(3, 2 * 9 * 2);
        let targets = [Some([0.4, 1.7]), None, Some([2.0, 0.0]), Some([1.1, 1.1])];
        check("places", &logits, &|logits| places(logits, &targets, 2, 3, 0.8));
    }

    #[test]
    fn a_loss_is_least_for_the_right_answer() {
        let right = |classes: &[u8]| -> Vec<f32> {
            classes.iter().flat_map(|class| [0, 1, 2].map(|c| if c == *class { 9.0 } else { -9.0 })).collect()
        };
        let mask = [0, 1, 1, 2];
        assert!(pixels(&right(&mask), &mask, 3).0 < 1e-3);
        assert!(pixels(&right(&[1, 1, 0, 2]), &mask, 3).0 > 1.0);
        // No structure at all, and none said: nothing is missing.
        assert!(pixels(&right(&[0; 4]), &[0; 4], 3).0 < 1e-3);
    }

    #[test]
    fn a_place_is_found_between_pixels() {
        let side = 16;
        for wanted in [[7.3, 4.8], [0.0, 15.0], [12.5, 2.25]] {
            let near = |pixel: usize| {
                let (down, across) = ((pixel / side) as f64 - wanted[0], (pixel % side) as f64 - wanted[1]);
                -(down * down + across * across) / (2.0 * 1.2 * 1.2)
            };
            let logits: Vec<f32> = (0..side * side).flat_map(|pixel| [0.0, near(pixel) as f32]).collect();
            let found = place_of(&logits, 1, 2, side);
            let inside = wanted.iter().all(|value| (4.0..11.0).contains(value));
            let bound = if inside { 0.02 } else { 0.9 };
            assert!((0..2).all(|i| (found[i] - wanted[i]).abs() < bound), "{found:?} {wanted:?}");
        }
    }
}
