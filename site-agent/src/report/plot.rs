//! Axes as SVG text: no script, no font file, no network. Where a value comes to lie is a plain function of it.

/// From values to pixels along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    values: [f64; 2],
    pixels: [f64; 2],
}

impl Scale {
    /// Lays the first value on the first pixel and the second on the second.
    pub fn new(values: [f64; 2], pixels: [f64; 2]) -> Self {
        Self { values, pixels }
    }

    /// Where a value lies.
    pub fn at(&self, value: f64) -> f64 {
        let ([low, high], [from, to]) = (self.values, self.pixels);
        from + (value - low) / (high - low) * (to - from)
    }
}

/// An axis: what it is called, which values it spans, whether they are written beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis<'a> {
    /// With its unit.
    pub label: &'a str,
    /// From, to.
    pub values: [f64; 2],
    /// Whether its values are told.
    pub told: bool,
}

/// A plot's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// From edge to edge.
    pub width: f64,
    /// From the title to the label of the x axis.
    pub height: f64,
    /// Of the width, what is kept free for words beside the lines.
    pub beside: f64,
}

/// A plot that is being drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Where x values lie.
    pub x: Scale,
    /// Where y values lie.
    pub y: Scale,
    svg: String,
}

const LEFT: f64 = 52.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 38.0;

impl Plot {
    /// An empty plot of so many pixels with its title and axes; `told` is what a reader who cannot see it hears.
    pub fn new(title: &str, told: &str, size: Size, x: Axis<'_>, y: Axis<'_>) -> Self {
        let (title, told, Size { width, height, beside }) = (escaped(title), escaped(told), size);
        let head = format!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{title}: {told}\"><title>{title}: {told}</title>\
             <text class=\"title\" x=\"{LEFT}\" y=\"15\">{title}</text>"
        );
        let mut plot = Self {
            x: Scale::new(x.values, [LEFT, width - beside]),
            y: Scale::new(y.values, [height - BOTTOM, TOP]),
            svg: head,
        };
        let ([left, right], [bottom, top]) = (plot.x.pixels, plot.y.pixels);
        for tick in ticks(y.values[0], y.values[1], 5).into_iter().filter(|_| y.told) {
            let (at, text) = (plot.y.at(tick), number(tick));
            plot.put(&format!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                left - 6.0,
                at + 3.5
            ));
        }
        for tick in ticks(x.values[0], x.values[1], 5).into_iter().filter(|_| x.told) {
            let (at, text) = (plot.x.at(tick), number(tick));
            plot.put(&format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", bottom + 14.0));
        }
        let (across, down) = ((left + right) / 2.0, (top + bottom) / 2.0);
        plot.put(&format!(
            "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
             <text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"rotate(-90 12 {down:.1})\" x=\"12\" y=\"{down:.1}\" text-anchor=\"middle\">{}</text>",
            height - 6.0,
            escaped(x.label),
            escaped(y.label)
        ));
        plot
    }

    /// A straight line between two points.
    pub fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let [[x1, y1], [x2, y2]] = [from, to].map(|point| self.place(point));
        self.put(&format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    /// A line at a height, over the whole width, with a word beside its end.
    pub fn level(&mut self, class: &str, value: f64, word: &str) {
        let [low, high] = self.x.values;
        self.line(class, [low, value], [high, value]);
        let [x, y] = self.place([high, value]);
        self.put(&format!("<text class=\"word\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 5.0, y + 3.5, escaped(word)));
    }

    /// A line through points.
    pub fn polyline(&mut self, class: &str, points: &[[f64; 2]]) {
        let places = points.iter().map(|point| self.place(*point)).map(|[x, y]| format!("{x:.1},{y:.1}"));
        let places: Vec<String> = places.collect();
        self.put(&format!("<polyline class=\"{class}\" points=\"{}\"/>", places.join(" ")));
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, point: [f64; 2]) {
        let [x, y] = self.place(point);
        self.put(&format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"));
    }

    /// The plot as an SVG element.
    pub fn end(self) -> String {
        self.svg + "</svg>"
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.x.at(x), self.y.at(y)]
    }

    fn put(&mut self, element: &str) {
        self.svg.push_str(element);
    }
}

/// Lowest and highest value; a span of 1 where there is none.
pub fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match (low.is_finite(), high > low) {
        (false, _) => (0.0, 1.0),
        (true, false) => (low - 0.5, low + 0.5),
        (true, true) => (low, high),
    }
}

/// Bounds with some air.
pub fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let margin = (high - low) * 0.08;
    (low - margin, high + margin)
}

/// Round values between `low` and `high`: steps of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, at_most: usize) -> Vec<f64> {
    let rough = (high - low) / at_most as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|unit| unit * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|index| index as f64 * step).collect()
}

/// A value beside an axis: at most three decimals, none that says nothing.
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    minus(text.trim_end_matches('0').trim_end_matches('.'))
}

/// A number with a true minus sign.
pub fn minus(number: &str) -> String {
    number.replace('-', "−")
}

/// Text that is safe inside HTML and SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_where_its_part_of_the_span_does_and_a_y_axis_grows_upwards() {
        let y = Scale::new([-10.0, 10.0], [200.0, 100.0]);
        assert_eq!([-10.0, 0.0, 5.0, 10.0].map(|value| y.at(value)), [200.0, 150.0, 125.0, 100.0]);
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_bounds() {
        let ticks = ticks(0.0, 1.0, 5);
        assert_eq!(ticks.iter().map(|tick| number(*tick)).collect::<Vec<_>>(), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }

    #[test]
    fn what_a_plot_is_called_is_text_and_nothing_else() {
        let axis = Axis { label: "a<b", values: [0.0, 1.0], told: true };
        let svg = Plot::new("<script>", "\"", Size { width: 200.0, height: 200.0, beside: 10.0 }, axis, axis).end();
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;") && svg.contains("a&lt;b"), "{svg}");
    }
}
