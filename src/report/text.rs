//! Numbers and names as text.

use crate::groups::GroupShape;
use crate::hardware::{Bound, Converter, Evaluation, Geometry, Hardware, Placement, Policy, Split, Start, Used};
use crate::integer::IntegerNetwork;
use crate::validation::{Accuracy, Agreement, Deployment, Mismatches};

use super::subject::Subject;

/// What stands for a number that isn't known.
pub(crate) const UNKNOWN: &str = "-";

/// Longest line in the terminal.
pub(super) const WIDTH: usize = 80;
/// Share of the energy from which on what idle macros leak is said.
const IDLE: f64 = 0.05;
/// Longest name that is printed whole.
pub(super) const NAME: usize = 24;

/// A document in which characters that a reader cannot see are U+FFFD, so that a name from a file cannot disguise itself: control
/// characters, and those that turn the writing direction.
pub(super) fn visible(document: &str) -> String {
    let hidden = |character: char| match character {
        '\n' | '\t' => false,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => character.is_control(),
    };
    document.chars().map(|character| if hidden(character) { '\u{fffd}' } else { character }).collect()
}

/// Text from a file for a terminal: at most `limit` letters, digits and ASCII's other characters, `?` for what isn't one.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let is_shown = |character: char| matches!(character, ' '..='~') || character.is_alphanumeric();
    shorten(text, limit, "..").chars().map(|character| if is_shown(character) { character } else { '?' }).collect()
}

/// At most `limit` characters: the middle gives way to `gap`.
pub(crate) fn shorten(text: &str, limit: usize, gap: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= limit {
        return text.into();
    }
    let kept = limit - gap.chars().count();
    let (head, tail) = (kept.div_ceil(2), characters.len() - kept / 2);
    let (head, tail) = (characters[..head].iter(), characters[tail..].iter());
    head.copied().chain(gap.chars()).chain(tail.copied()).collect()
}

/// Lines of at most `width` characters, broken between words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            *line += &format!(" {word}");
        } else {
            lines.push(word.into());
        }
    }
    lines
}

/// A share from 0 to 1 in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// An accuracy, which is already in percent.
pub(crate) fn accuracy(percent: Option<f64>) -> String {
    percent.map_or(UNKNOWN.into(), |percent| format!("{percent:.2} %"))
}

/// A cell of a CSV file (RFC 4180).
pub(crate) fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.into(),
    }
}

/// A whole number with a comma before every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |index: usize| index > 0 && (digits.len() - index).is_multiple_of(3);
    let digit = |(index, digit)| [comma(index).then_some(','), Some(digit)];
    digits.chars().enumerate().flat_map(digit).flatten().collect()
}

/// A count of things, with the ending of the plural.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(number as u64))
}

/// Bits as bytes or KiB.
pub(super) fn bytes(bits: u64) -> String {
    match bits {
        0..8192 => format!("{} B", bits.div_ceil(8)),
        _ => format!("{:.1} KiB", bits as f64 / 8192.0),
    }
}

/// Energy in microjoules, to the nanojoule.
pub(crate) fn energy(uj: f64) -> String {
    fixed(uj, 3)
}

/// A number with so many digits behind the point; one that no column is wide enough for with a power of ten.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    if value.abs() < 1e9 { format!("{value:.digits$}") } else { format!("{value:.3e}") }
}

/// TOPS, or TOPS for each of something: three digits behind the point, of small ones more.
pub(super) fn tops(value: f64) -> String {
    three_digits(value, 3)
}

/// A number with three digits that count, and at least so many behind the point.
pub(super) fn three_digits(value: f64, least: usize) -> String {
    let magnitude = if value > 0.0 { value.log10().floor() } else { 0.0 };
    if value != 0.0 && magnitude < -6.0 {
        return format!("{value:.2e}");
    }
    fixed(value, (2.0 - magnitude).max(least as f64) as usize)
}

/// Frames a second: whole ones, of few three digits.
pub(super) fn frames(fps: f64) -> String {
    if fps >= 100.0 {
        return grouped(fps.round() as u64);
    }
    three_digits(fps, 1)
}

/// What macros without weights leak, where that is worth a word.
fn idle_summary(evaluation: &Evaluation) -> Option<String> {
    let Evaluation { policy, cost, .. } = evaluation;
    let idle_uj = cost.energy_breakdown_uj.idle_leakage;
    let left_out = if *policy == Policy::Auto { ", which the mapper leaves out of account" } else { "" };
    (idle_uj > IDLE * cost.energy_uj)
        .then(|| format!("Macros that hold no weights leak {} uJ a frame{left_out}", energy(idle_uj)))
}

/// Share of an access's power from which on the leakage that is charged for a macro is said.
const LEAKAGE: f64 = 0.5;
/// Pairs of bits that a sentence names.
const MAX_PAIRS: usize = 2;

/// What a reader of the cost should know of the chip, a sentence each.
pub(super) fn remarks(subject: Subject) -> Vec<String> {
    let chip = &subject.evaluation.chip.description;
    [idle_summary(subject.evaluation), wider_accesses(subject.network, chip), leakage(chip)]
        .into_iter()
        .flatten()
        .collect()
}

/// Which layers are charged for accesses of more bits than they have.
fn wider_accesses(network: &IntegerNetwork, chip: &Hardware) -> Option<String> {
    let mut pairs = Vec::new();
    let (mut convs, mut wider) = (0, 0);
    for (_, conv) in network.convs() {
        convs += 1;
        let Ok(access) = chip.precision(conv.weight_bits, conv.input_bits) else { continue };
        if access.weight_bits > conv.weight_bits || access.input_bits > conv.input_bits {
            wider += 1;
            let [own, taken] = [(conv.weight_bits, conv.input_bits), (access.weight_bits, access.input_bits)]
                .map(|(weights, inputs)| format!("{weights} x {inputs}"));
            let pair = format!("{own} b take {taken} b");
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    let others = if pairs.len() > MAX_PAIRS { " .." } else { "" };
    pairs.truncate(MAX_PAIRS);
    (wider > 0).then(|| {
        let pairs = pairs.join(", ");
        format!("Accesses of more bits than their own serve {wider} of {}: {pairs}{others}", count(convs, "layer"))
    })
}

/// Leakage that is much beside what accesses draw, as where it is a base's.
fn leakage(chip: &Hardware) -> Option<String> {
    let accesses = chip.access.iter().filter_map(|mode| chip.precision(mode.weight_bits, mode.input_bits).ok());
    // Picojoules in a nanosecond are milliwatts.
    let draws = accesses.map(|access| access.energy_pj / access.ns).reduce(f64::max)?;
    let leaks = chip.leakage_mw_per_macro();
    (leaks > LEAKAGE * draws).then(|| {
        format!(
            "Macros leak {} mW each (energy.leakage_mw_per_macro), {:.0} % of what their accesses draw",
            three_digits(leaks, 1),
            100.0 * leaks / draws
        )
    })
}

/// A value as a shell takes it for one word.
pub fn for_a_shell(value: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=@%+,".contains(letter);
    match !value.is_empty() && value.chars().all(is_plain) {
        true => value.into(),
        false => format!("'{}'", value.replace('\'', "'\\''")),
    }
}

/// What a chip's converters do.
pub(super) fn converter(converter: Converter) -> String {
    match converter {
        Converter::Ideal => "ideal: each partial sum as it is".into(),
        Converter::AdderTree => "a digital adder tree: each partial sum as it is".into(),
        Converter::Clipping { range } => format!("clips beyond {}", grouped(range as u64)),
        Converter::Bits { bits, step } => format!("{bits} bits, {} a code", grouped(step as u64)),
    }
}

/// A component's key as words.
pub(super) fn words(key: &str) -> String {
    key.replace('_', " ")
}

/// How a layer lies on the cores.
pub(super) fn placement(placement: Placement) -> String {
    let mut text = match placement.split {
        Split::FilterSets => "filter sets".to_owned(),
        Split::InputChannels => "input channels".to_owned(),
    };
    if placement.copies > 1 {
        text += &format!(", {} copies", placement.copies);
    }
    if placement.start == Start::Together {
        text += ", together";
    }
    text
}

/// Which part of the chip was taken, and which placements, in a line.
pub(super) fn mapping_summary(evaluation: &Evaluation) -> String {
    let policy = match evaluation.policy {
        Policy::Auto => "auto",
        Policy::FilterSets => "filter sets",
        Policy::Together => "together",
        Policy::InputChannels => "input channels",
        Policy::Duplicate => "duplicate",
    };
    let Used { cores, macros_per_core, .. } = evaluation.used;
    let layers = || evaluation.layers.iter().filter_map(|layer| layer.mapping);
    let [channels, copied, together] = [
        layers().filter(|placement| placement.split == Split::InputChannels).count(),
        layers().filter(|placement| placement.copies > 1).count(),
        layers().filter(|placement| placement.start == Start::Together).count(),
    ];
    format!(
        "Mapping {policy}, {cores} x {macros_per_core} macros, {}: {channels} by channels, {copied} copied, {together} together",
        count(layers().count(), "layer")
    )
}

/// A part of the chip that bounds a layer.
pub(super) fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::Computing => "computing",
        Bound::Loading => "loading",
        Bound::ReadPort => "read port",
        Bound::WritePort => "write port",
        Bound::NextLevel => "next level",
        Bound::Decoder => "decoder",
    }
}

/// How many layers each part of the chip bounds, in a line.
pub(super) fn bounds_summary(evaluation: &Evaluation) -> String {
    let mut counted: Vec<(Bound, usize)> = Vec::new();
    for layer in &evaluation.layers {
        match counted.iter_mut().find(|(bound, _)| *bound == layer.bound) {
            Some((_, count)) => *count += 1,
            None => counted.push((layer.bound, 1)),
        }
    }
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let parts: Vec<String> = counted.iter().map(|(bound, count)| format!("{} {count}", bound_name(*bound))).collect();
    let without = match evaluation.layers.iter().filter(|layer| layer.mapping.is_none()).count() {
        0 => String::new(),
        1 => "; 1 has no weights".into(),
        others => format!("; {others} have no weights"),
    };
    format!("Layers are bound by {}{without}", parts.join(", "))
}

/// What was done to accesses that were measured on another geometry.
pub(super) fn scaling(from: Geometry) -> String {
    let Geometry { rows, columns, rows_on } = from;
    format!("Accesses are scaled from {rows} x {columns} cells with {rows_on} rows on")
}

/// Whether the executions agree, in one sentence; a semicolon parts lines of at most 78 characters.
pub(super) fn agreement(deployment: &Deployment) -> String {
    let losses = deployment.evaluation.losses.join(", ");
    match deployment.agreement() {
        Agreement::All => "Fake-quant, integer reference and macro model agree on every image.".into(),
        Agreement::Partly => {
            "Integer reference and macro model agree on every logit; the package holds no fake-quant predictions for \
             these images."
                .into()
        }
        Agreement::OnChip => format!(
            "The macro model is lossy ({losses}); fake-quant saw the same, and agrees on every image; the integer \
             reference is that of an ideal chip."
        ),
        Agreement::Lossy => format!(
            "The macro model is lossy ({losses}); integer reference and fake-quant predictions are those of an ideal chip."
        ),
        Agreement::LossyPartly => format!(
            "The macro model is lossy ({losses}); the integer reference is that of an ideal chip; the package holds no \
             fake-quant predictions for these images."
        ),
        Agreement::OtherChip if losses.is_empty() => format!(
            "Integer reference and macro model agree on every logit; fake-quant predictions are those of a chip that \
             loses something; {THAT_CHIP}."
        ),
        Agreement::OtherChip => format!(
            "The macro model is lossy ({losses}); fake-quant predictions are those of another chip that is lossy; \
             {THAT_CHIP}."
        ),
        Agreement::No => "The executions differ, which no converter and no noise explains.".into(),
    }
}

/// What to do about predictions of another chip.
const THAT_CHIP: &str = "pass that chip with --hardware: a run folder has it as hardware.toml";

/// That a package is counted in groups of another shape than it was trained with, where it is.
pub(super) fn other_groups(deployment: &Deployment) -> Option<String> {
    let [trained, counted] = [deployment.package.network.group, deployment.evaluation.chip.description.group];
    let shape = |group: GroupShape| format!("{} x {}", group.filters, group.channels);
    (trained != counted).then(|| {
        format!(
            "Trained with groups of {}, counted here as {} of `{}`",
            shape(trained),
            shape(counted),
            shorten(&deployment.evaluation.hardware, NAME, "..")
        )
    })
}

/// Names of layers of which no group is left: they put out a constant.
pub(super) fn empty_layers(evaluation: &Evaluation) -> impl Iterator<Item = &str> {
    let empty = evaluation.layers.iter().filter(|layer| layer.groups > 0 && layer.kept_groups == 0);
    empty.map(|layer| layer.name.as_str())
}

/// The float network and the three executions: name, accuracy in percent, and in what they differ from others.
pub(super) fn executions(accuracies: &Accuracy, mismatches: &Mismatches) -> Vec<(&'static str, String, String)> {
    let images = |found: Option<usize>| found.map_or(UNKNOWN.into(), |found| grouped(found as u64));
    let fake_quant = match (mismatches.fake_quant_vs_integer_predictions, mismatches.fake_quant_vs_macro_predictions) {
        (None, None) => UNKNOWN.into(),
        (integer, chip) => format!("integer in {} images, macro in {}", images(integer), images(chip)),
    };
    let mut rows = vec![
        ("float before quantization", accuracy(accuracies.float), String::new()),
        ("fake-quant", accuracy(accuracies.fake_quant), fake_quant),
        (
            "integer reference",
            accuracy(Some(accuracies.integer)),
            format!("macro in {} logits", grouped(mismatches.integer_vs_macro_logits as u64)),
        ),
        ("macro model", accuracy(Some(accuracies.macro_model)), String::new()),
    ];
    let top5 = accuracies.macro_model_top5;
    rows.extend(top5.map(|top5| ("macro model, five guesses", accuracy(Some(top5)), String::new())));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{Assumptions, Pattern, named_network};

    #[test]
    fn layers_in_wider_accesses_are_counted() {
        let said = |bits: u8| {
            let assumptions = Assumptions {
                weight_bits: bits,
                activation_bits: bits,
                first_last_bits: 8,
                sparsity: 0.0,
                pattern: Pattern::Even,
            };
            let chip = Hardware::mars();
            let network = assumptions.network(named_network("resnet20", None, None).unwrap(), chip.group).unwrap();
            wider_accesses(&network, &chip)
        };
        assert_eq!(said(4), None);
        let three = "Accesses of more bits than their own serve 18 of 20 layers: 3 x 3 b take 4 x 4 b";
        assert_eq!(said(3).as_deref(), Some(three));
    }

    #[test]
    fn leakage_is_told_from_half_of_an_access_on() {
        let said = |milliwatts: f64| {
            let mut chip = Hardware::mars();
            chip.energy.leakage_mw_per_macro = milliwatts;
            leakage(&chip)
        };
        // 61.6 pJ in 8.4 ns.
        assert_eq!(said(3.66), None);
        let told = "Macros leak 3.67 mW each (energy.leakage_mw_per_macro), 50 % of what their accesses draw";
        assert_eq!(said(3.67).as_deref(), Some(told));
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shorten("layer1.0.conv1", 14, "…"), "layer1.0.conv1");
        assert_eq!(shorten("layer1.0.conv10", 14, "…"), "layer1.…conv10");
        assert_eq!(printable("a\u{1b}[31mé\u{202e}", 20), "a?[31mé?");
        assert_eq!(printable("abcdefghij", 6), "ab..ij");
    }

    #[test]
    fn small_speeds_have_digits() {
        assert_eq!(
            [0.0, 1.5604, 0.528, 0.0123456, 0.00045678].map(tops),
            ["0.000", "1.560", "0.528", "0.0123", "0.000457"]
        );
        assert_eq!([3.7e-9, 2e12].map(tops), ["3.70e-9", "2.000e12"]);
        assert_eq!([999_999_999.5, 1e9, 2.5e300].map(energy), ["999999999.500", "1.000e9", "2.500e300"]);
        assert_eq!([24_391.6, 100.0, 45.25, 5.3, 0.2449].map(frames), ["24,392", "100", "45.2", "5.30", "0.245"]);
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let grouped: Vec<String> = [0, 999, 1000, 23_984, 1_234_567].map(grouped).into();
        assert_eq!(grouped, ["0", "999", "1,000", "23,984", "1,234,567"]);
    }
}
