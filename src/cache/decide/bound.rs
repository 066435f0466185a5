//! The bound on wrong hits of one owner: what labels say of the risk model, and which risks may be served.
//!
//! The risk model was calibrated on prompts of others. [`Calibration`] corrects it by the owner's own labels: log-odds that are
//! shifted and stretched, `a + b * (logit(risk) - CENTRE)`, with a normal prior that says how far sets of prompts differ, and the
//! normal approximation to the posterior at its mode (Laplace; MacKay, "The evidence framework applied to classification
//! networks", 1992). Risks are always taken at their upper confidence limit, so few labels serve less than many good ones.
//!
//! A risk may be served if both hold:
//! 1. It is, as corrected, no higher than the limit fitted on held-out pairs. With no label that is the limit itself.
//! 2. Over the owner's recent requests, what would have been served adds up to no more wrong hits than the rate allows.

use super::risk::logit;

/// Log-odds about which shift and stretch are independent: a risk of 0.1.
const CENTRE: f64 = -2.197;
/// Standard deviations of the shift and of the stretch between sets of prompts: among what is served at the default bound, the risk
/// model was off by factors of 0.4 (fow-cache), 0.6 (qqp), 1.05 (own groups) and 1.65 (PAWS).
const SHIFT_SD: f64 = 0.5;
const STRETCH_SD: f64 = 0.2;
/// One-sided 95 %, for sums over many requests.
const Z: f64 = 1.645;
/// For a single hit, which is one of many: half a standard deviation.
const CAUTION: f64 = 0.5;

/// Labels count half after so many newer ones, so that a drift is followed.
const LABELS_HALF: f64 = 150.0;
/// Newton steps at most, and how far one may go.
const STEPS: usize = 100;
const FARTHEST: f64 = 0.5;

/// What one hit turned out to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labelled {
    /// As the risk model said it.
    pub risk: f64,
    pub right: bool,
}

/// Shift and stretch of the risk model's log-odds, with their covariance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    shift: f64,
    stretch: f64,
    /// Variance of the shift, of the stretch, and their covariance.
    variance: [f64; 3],
}

impl Calibration {
    /// Without labels.
    pub const PRIOR: Self =
        Self { shift: CENTRE, stretch: 1.0, variance: [SHIFT_SD * SHIFT_SD, STRETCH_SD * STRETCH_SD, 0.0] };

    /// By labels, newest first.
    pub fn fit(labels: &[Labelled]) -> Self {
        let mut found = Self::PRIOR;
        for _ in 0..STEPS {
            let (gradient, variance) = found.slope(labels);
            found.variance = variance;
            let step = [
                variance[0] * gradient[0] + variance[2] * gradient[1],
                variance[2] * gradient[0] + variance[1] * gradient[1],
            ];
            // A whole step may lead to where the likelihood is flat, and from there anywhere.
            let damped = (FARTHEST / step[0].abs().max(step[1].abs()).max(FARTHEST)).min(1.0);
            let before = (found.shift, found.stretch);
            found.shift -= damped * step[0];
            // A model that were turned round would serve the riskiest first.
            found.stretch = (found.stretch - damped * step[1]).max(0.0);
            if (found.shift - before.0).abs() + (found.stretch - before.1).abs() < 1e-9 {
                break;
            }
        }
        found.variance = found.slope(labels).1;
        found
    }

    /// Gradient of the negative log posterior, and the inverse of its Hessian.
    fn slope(&self, labels: &[Labelled]) -> ([f64; 2], [f64; 3]) {
        let (shift, stretch) = (SHIFT_SD * SHIFT_SD, STRETCH_SD * STRETCH_SD);
        let mut gradient = [(self.shift - CENTRE) / shift, (self.stretch - 1.0) / stretch];
        let mut hessian = [1.0 / shift, 1.0 / stretch, 0.0];
        for (age, label) in labels.iter().enumerate() {
            let weight = 0.5_f64.powf(age as f64 / LABELS_HALF);
            let x = logit(label.risk) - CENTRE;
            let p = sigmoid(self.shift + self.stretch * x);
            let off = weight * (p - f64::from(u8::from(!label.right)));
            gradient = [gradient[0] + off, gradient[1] + off * x];
            let curve = weight * p * (1.0 - p);
            hessian = [hessian[0] + curve, hessian[1] + curve * x * x, hessian[2] + curve * x];
        }
        let determinant = hessian[0] * hessian[1] - hessian[2] * hessian[2];
        (gradient, [hessian[1] / determinant, hessian[0] / determinant, -hessian[2] / determinant])
    }

    /// The upper confidence limit of the chance that a hit of that risk is wrong, `z` standard deviations above the likeliest.
    fn upper(&self, risk: f64, z: f64) -> f64 {
        let x = logit(risk) - CENTRE;
        let [shift, stretch, both] = self.variance;
        let deviation = (shift + 2.0 * x * both + x * x * stretch).max(0.0).sqrt();
        sigmoid(self.shift + self.stretch * x + z * deviation)
    }

    /// The likeliest chance.
    pub fn likely(&self, risk: f64) -> f64 {
        sigmoid(self.shift + self.stretch * (logit(risk) - CENTRE))
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Bins of risks; the last one holds what nobody serves.
const BINS: usize = 64;
/// Log-odds of the lower end of the first bin, and of the upper end of the last but one.
const LOWEST: f64 = -8.0;
const HIGHEST: f64 = 2.0;
/// Requests that a new owner is taken to have had, none of them near anything.
const BEGIN: f64 = 100.0;
/// Requests count half after so many newer ones.
const TRAFFIC_HALF: f64 = 10_000.0;

/// The least risk at which each of an owner's recent requests could have been answered by meaning.
#[derive(Debug, Clone)]
pub struct Traffic {
    seen: [f64; BINS],
    /// Requests, and those of them that were only taken to have been.
    total: f64,
    begin: f64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { seen: [0.0; BINS], total: BEGIN, begin: BEGIN }
    }
}

impl Traffic {
    /// One lookup by meaning; `None` when it found nothing that could be judged.
    pub fn note(&mut self, risk: Option<f64>) {
        if let Some(risk) = risk {
            self.seen[bin(risk)] += 1.0;
        }
        self.total += 1.0;
        if self.total > 2.0 * TRAFFIC_HALF {
            self.seen.iter_mut().for_each(|seen| *seen /= 2.0);
            self.total /= 2.0;
            self.begin /= 2.0;
        }
    }

    /// The highest risk up to `most` at which what would have been served adds up to at most `rate` wrong hits per request.
    fn within(&self, rate: f64, most: f64, calibration: &Calibration) -> f64 {
        let mut wrong = 0.0;
        let mut below = 0.0;
        for (bin, seen) in self.seen.iter().enumerate().take(bin(most) + 1) {
            let end = upper_end(bin).min(most);
            wrong += seen * calibration.upper(end, Z);
            if wrong > rate * self.total {
                return below;
            }
            below = end;
        }
        most
    }

    /// What would have come of the requests, if all up to that risk were served.
    pub fn served(&self, most: f64, calibration: &Calibration) -> Served {
        let requests = self.total - self.begin;
        let bins = self.seen.iter().enumerate().filter(|(bin, _)| upper_end(*bin) <= most * (1.0 + 1e-9));
        let (hits, wrong) = bins.fold((0.0, 0.0), |(hits, wrong), (bin, seen)| {
            (hits + seen, wrong + seen * calibration.likely(upper_end(bin)))
        });
        let share = |count: f64| if requests > 0.0 { count / requests } else { 0.0 };
        Served { requests, hits: share(hits), wrong: share(wrong) }
    }
}

/// What a bound comes to on an owner's recent requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served {
    /// Requests that looked for an answer by meaning; older ones count less.
    pub requests: f64,
    /// Share of them that would be hits, and that would be wrong hits, as likely as the risks say.
    pub hits: f64,
    pub wrong: f64,
}

fn bin(risk: f64) -> usize {
    let place = (logit(risk) - LOWEST) / (HIGHEST - LOWEST) * (BINS - 1) as f64;
    // Beyond the ends it saturates.
    (place.max(0.0) as usize).min(BINS - 1)
}

fn upper_end(bin: usize) -> f64 {
    sigmoid(LOWEST + (bin + 1) as f64 * (HIGHEST - LOWEST) / (BINS - 1) as f64)
}

/// The highest risk that may be served. `prior`: what held-out pairs allow at that rate.
pub fn max_risk(rate: f64, prior: f64, calibration: &Calibration, traffic: &Traffic) -> f64 {
    if rate <= 0.0 || prior <= 0.0 {
        return 0.0;
    }
    if rate >= 1.0 {
        return 1.0;
    }
    let most = Calibration::PRIOR.upper(prior, CAUTION);
    let mut by_labels = prior;
    if *calibration != Calibration::PRIOR {
        // Rising in the risk: halved until the limit is known to a thousandth of its log-odds.
        let (mut low, mut high) = (LOWEST - 4.0, HIGHEST + 4.0);
        while high - low > 1e-3 {
            let middle = (low + high) / 2.0;
            if calibration.upper(sigmoid(middle), CAUTION) <= most { low = middle } else { high = middle }
        }
        by_labels = if low <= LOWEST - 3.9 { 0.0 } else { sigmoid(low) };
    }
    traffic.within(rate, by_labels, calibration)
}

#[cfg(test)]
mod tests;
