//! `report.html`: one file that needs no network, for a phone or a desk, light or dark.
//!
//! Every text that comes from a package or a run folder goes through [`Escape`].

use crate::deploy::Deployment;
use crate::hardware::{Cost, LayerCost};
use crate::network::ConvShape;

use super::drawings::{self, Drawing};
use super::metrics::{Epoch, Metrics};
use super::svg::{self, Bar, Curve};
use super::text::{
    Agreement, Escape, UNKNOWN, accuracy, bytes, count, empty_layers, energy, executions, grouped, mapping_summary,
    percent, placement, words,
};

/// The page.
pub(super) fn page(deployment: &Deployment, metrics: &Metrics) -> String {
    let title = format!("{} on {}", deployment.network, deployment.hardware);
    let sections = [
        headline(deployment),
        executions_section(deployment),
        compression(deployment),
        cost(deployment),
        energy_section(deployment),
        area(deployment),
        sparsity(deployment),
        layers(deployment),
        utilization(deployment),
        timeline(deployment),
        kept(deployment),
        training(metrics),
        provenance(deployment),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        Escape(&title),
        include_str!("style.css"),
        sections.concat(),
    )
}

fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n{body}</section>\n")
}

/// A table whose first column names the rows and whose last one holds words; headings and cells are HTML.
fn table_of_words(headings: &[&str], rows: &[Vec<String>]) -> String {
    table(headings, rows).replacen("<table>", "<table class=\"words\">", 1)
}

/// A table whose first column names the rows; headings and cells are HTML.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let head: String = headings.iter().map(|heading| format!("<th scope=\"col\">{heading}</th>")).collect();
    let row = |row: &Vec<String>| {
        let cells: String = row[1..].iter().map(|cell| format!("<td>{cell}</td>")).collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", row[0])
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn headline(deployment: &Deployment) -> String {
    let provenance = &deployment.package.provenance;
    let same_data = provenance.data_sha256 == deployment.data_sha256;
    let data = if same_data {
        format!("the test pictures of <b>{}</b> that it was made with", Escape(&provenance.dataset))
    } else {
        format!("other pictures than those of <b>{}</b> that it was made with", Escape(&provenance.dataset))
    };
    let Deployment { compression, cost, accuracy: accuracies, .. } = deployment;
    let agreement = Agreement::new(deployment);
    let class = match agreement {
        Agreement::All | Agreement::OnChip => "good",
        Agreement::Partly | Agreement::Lossy | Agreement::LossyPartly | Agreement::OtherChip => "part",
        Agreement::No => "bad",
    };
    let cards = [
        ("accuracy of macro model", accuracy(Some(accuracies.macro_model))),
        ("smaller than dense, index included", format!("{:.2} ×", compression.ratio)),
        ("zero groups", percent(compression.group_sparsity)),
        ("frames per second", format!("{} / s", grouped(cost.fps.round() as u64))),
        ("energy per frame", format!("{} µJ", energy(cost.energy_uj))),
        ("executed", format!("{:.2} TOPS/W", cost.tops_per_watt_executed)),
    ];
    let cards: String =
        cards.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect();
    format!(
        "<header>\n<h1>{} on {}</h1>\n<p>Validated on {}: {data}.</p>\n<p class=\"{class}\">{}</p>\n<dl class=\"cards\">\n{cards}</dl>\n</header>\n",
        Escape(&deployment.network),
        Escape(&deployment.hardware),
        count(deployment.images, "picture"),
        Escape(&agreement.sentence(deployment)),
    )
}

fn executions_section(deployment: &Deployment) -> String {
    let rows = executions(&deployment.accuracy, &deployment.mismatches)
        .map(|(name, accuracy, differs)| vec![name.into(), accuracy, differs]);
    let note = "<p class=\"note\">Fake-quant runs through the tensor library from the trained weights, the integer reference \
                from the package, the macro model access by access from the mapped groups; none calls another. The float accuracy is the one at export, on \
                the whole test split.</p>\n";
    section("Accuracy", &(table_of_words(&["execution", "accuracy", "differs from"], &rows) + note))
}

fn compression(deployment: &Deployment) -> String {
    let compression = &deployment.compression;
    let stored = compression.weight_bits_stored + compression.index_bits;
    let rows = [
        ("weights, dense at the same bits", bytes(compression.weight_bits_dense)),
        ("weights of kept groups", bytes(compression.weight_bits_stored)),
        ("index codes", bytes(compression.index_bits)),
        ("weights and index codes", bytes(stored)),
        ("ratio to dense at the same bits", format!("{:.2} ×", compression.ratio)),
        ("ratio to dense at 32 bits", format!("{:.2} ×", compression.ratio_fp32)),
        ("groups that are zero", percent(compression.group_sparsity)),
    ];
    let rows = rows.map(|(name, value)| vec![name.into(), value]);
    section("Compression", &table(&["all mapped layers", "size"], &rows))
}

fn cost(deployment: &Deployment) -> String {
    type Value = fn(&Cost) -> String;
    let rows: [(&str, Value); 8] = [
        ("time", |cost| format!("{} cycles", grouped(cost.cycles))),
        ("latency", |cost| format!("{:.2} µs", cost.latency_us)),
        ("throughput", |cost| format!("{} frames/s", grouped(cost.fps.round() as u64))),
        ("energy", |cost| format!("{} µJ", energy(cost.energy_uj))),
        ("efficiency, dense-equivalent", |cost| format!("{:.2} TOPS/W", cost.tops_per_watt_dense_equivalent)),
        ("efficiency, executed", |cost| format!("{:.2} TOPS/W", cost.tops_per_watt_executed)),
        ("utilization", |cost| percent(cost.utilization)),
        ("speed-up over dense", |cost| format!("{:.2} ×", cost.speedup_vs_dense)),
    ];
    let per_area: [(&str, Value); 2] = [
        ("density, dense-equivalent", |cost| density(cost.tops_per_mm2_dense_equivalent)),
        ("density, executed", |cost| density(cost.tops_per_mm2_executed)),
    ];
    let per_area = per_area.into_iter().filter(|_| deployment.evaluation.area.is_some());
    let row = |(name, value): (&str, Value)| {
        vec![name.into(), value(&deployment.cost), value(&deployment.cost_without_reload)]
    };
    let rows: Vec<_> = rows.into_iter().chain(per_area).map(row).collect();
    let evaluation = &deployment.evaluation;
    let reload = if evaluation.resident {
        "All kept weights have a place in the macros at the same time, so nothing is reloaded and both columns are the same.".into()
    } else {
        let from = if evaluation.fits_weight_sram {
            "come from the cores' weight SRAMs"
        } else {
            "do not fit the cores' weight SRAMs and come from the next memory level"
        };
        format!(
            "<b>With reload</b>, the weights {from} and are written into the macros once for {}; latency is that of all frames \
             that share a load. <b>Without reload</b> is the same as if all weights stayed in the macros.",
            count(evaluation.timeline.frames, "frame")
        )
    };
    let notes = format!(
        "<p class=\"note\">{reload}</p>\n\
         <p class=\"note\"><b>Dense-equivalent</b> TOPS/W counts two operations for every multiply-accumulate of the dense \
         network, those of zero groups included, which are never computed. <b>Executed</b> TOPS/W counts only those of kept \
         groups on real channels and filters; padding is not counted. <b>Utilization</b> is executed multiply-accumulates over \
         what the macros could do in these cycles. The dense comparison has the same bits and the same chip.</p>\n"
    );
    section("Cost of a frame", &(table(&["per frame", "with reload", "without reload"], &rows) + &notes))
}

fn density(tops_per_mm2: Option<f64>) -> String {
    tops_per_mm2.map_or(UNKNOWN.into(), |tops| format!("{tops:.3} TOPS/mm²"))
}

/// What a component of the energy counts.
fn component(key: &str) -> &'static str {
    match key {
        "macro" => "accesses: array, converters, drivers",
        "accumulation" => "adding up the outputs of accesses",
        "cell_writes" => "writing weights into the macros",
        "weight_buffer" => "reading weights, indices and coefficients from the weight SRAMs",
        "feature_buffer" => "reading and writing feature maps",
        "next_level" => "weights, spilled maps and the picture, from and to the next memory level",
        "index_decode" => "decoding the index codes",
        "requantization" => "multiply, round and shift, residual sums, pooling",
        "leakage" => "macros that wait",
        _ => "",
    }
}

fn energy_section(deployment: &Deployment) -> String {
    let Deployment { cost, cost_without_reload, .. } = deployment;
    let parts = cost.energy_breakdown_uj.components();
    let without = cost_without_reload.energy_breakdown_uj.components();
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let chart = drawings::energy(deployment).svg;
    let mut rows: Vec<Vec<String>> = parts
        .iter()
        .zip(&without)
        .map(|((key, part), (_, without))| {
            vec![
                words(key),
                energy(*part),
                percent(share(*part, cost.energy_uj)),
                energy(*without),
                component(key).into(),
            ]
        })
        .collect();
    rows.push(vec![
        "<b>all</b>".into(),
        energy(cost.energy_uj),
        percent(share(cost.energy_uj, cost.energy_uj)),
        energy(cost_without_reload.energy_uj),
        String::new(),
    ]);
    let headings = ["component", "with reload (µJ)", "share (%)", "without reload (µJ)", "what it counts"];
    section(
        "Energy of a frame",
        &format!(
            "<figure>\n{chart}<figcaption>Weight reload charged.</figcaption>\n</figure>\n{}{}",
            table_of_words(&headings, &rows),
            macro_split(deployment),
        ),
    )
}

/// How the energy of the macros is split, where the hardware file says so.
fn macro_split(deployment: &Deployment) -> String {
    let Some(shares) = &deployment.evaluation.macro_shares else { return String::new() };
    let array = deployment.cost.energy_breakdown_uj.array;
    let parts = shares.parts().map(|(name, share)| format!("{name} {} µJ ({})", energy(share * array), percent(share)));
    format!(
        "<p class=\"note\">Of the macros' energy, by the shares that the hardware file gives: {}. Where the macro's energy is \
         measured as a whole, these shares are chosen.</p>\n",
        parts.join(", ")
    )
}

/// The area by component, where the hardware file has the constants.
fn area(deployment: &Deployment) -> String {
    let Some(area) = &deployment.evaluation.area else { return String::new() };
    let rows = [
        ("macros, with converters and drivers", area.macros_mm2),
        ("weight SRAMs", area.weight_sram_mm2),
        ("feature-map SRAM", area.feature_sram_mm2),
        ("logic", area.logic_mm2),
        ("<b>all</b>", area.total_mm2),
    ];
    let rows = rows.map(|(name, mm2)| vec![name.into(), format!("{mm2:.4}"), percent(mm2 / area.total_mm2)]);
    section("Area", &table(&["component", "area (mm²)", "share (%)"], &rows))
}

fn sparsity(deployment: &Deployment) -> String {
    let bars: Vec<Bar> = deployment
        .layers
        .iter()
        .filter_map(|layer| {
            let zero = layer.groups - layer.kept_groups;
            Some(Bar {
                label: layer.name.clone(),
                share: layer.group_sparsity?,
                text: format!("{} of {}", grouped(zero), grouped(layer.groups)),
            })
        })
        .collect();
    let chart = svg::bars("Share of zero groups, layer by layer", &bars);
    let empty: String = empty_layers(deployment)
        .map(|name| {
            format!("<p class=\"bad\">Nothing is left of layer {}: all its groups are zero.</p>\n", Escape(name))
        })
        .collect();
    section(
        "Sparsity of each layer",
        &format!(
            "<figure>\n{chart}<figcaption>Groups that are zero, of all groups of the layer; a full bar is 100 %.</figcaption>\n</figure>\n{empty}"
        ),
    )
}

fn layers(deployment: &Deployment) -> String {
    let convs: Vec<_> = deployment.package.network.convs().collect();
    let conv = |layer: &LayerCost| convs.iter().find(|(conv, _)| conv.name == layer.name);
    let rows: Vec<Vec<String>> = deployment
        .layers
        .iter()
        .map(|layer| {
            let number = |value: Option<String>| value.unwrap_or(UNKNOWN.into());
            vec![
                Escape(&layer.name).to_string(),
                grouped(layer.cycles),
                energy(layer.energy_uj),
                number(layer.group_sparsity.map(percent)),
                number(
                    layer
                        .group_sparsity
                        .map(|_| format!("{} of {}", grouped(layer.kept_groups), grouped(layer.groups))),
                ),
                percent(layer.utilization),
                layer.mapping.map_or("all cores".into(), placement),
                format!("{:.3}", layer.kept_macs as f64 / 1e6),
                number(conv(layer).map(|(conv, _)| shape_of(&conv.shape))),
                number(conv(layer).map(|(_, conv)| format!("{}, {}", conv.weight_bits, conv.input_bits))),
            ]
        })
        .collect();
    let headings = [
        "layer",
        "cycles",
        "energy (µJ)",
        "zero groups (%)",
        "kept groups",
        "utilization (%)",
        "mapping",
        "MAC (millions)",
        "weights",
        "bits",
    ];
    let note = "<p class=\"note\">Per frame, weight reload charged. Multiply-accumulates (MAC) are those of kept groups. Weights \
                are filters × channels × kernel height × width; bits are those of a weight and of an input. The mapping says what the cores \
                divide among themselves, how often the layer is on the chip if more than once, and whether the macros of a core start \
                together.</p>\n";
    let summary = format!("<p class=\"note\">{}.</p>\n", mapping_summary(&deployment.evaluation));
    section("Layers", &(table(&headings, &rows) + note + &summary))
}

/// Filters, channels and kernel.
fn shape_of(shape: &ConvShape) -> String {
    let [height, width] = shape.kernel;
    format!("{} × {} × {height} × {width}", shape.filters(), shape.channels())
}

fn utilization(deployment: &Deployment) -> String {
    let drawing = drawings::utilization(deployment);
    section(
        "Utilization of each layer",
        &format!("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", drawing.svg, Escape(&drawing.caption)),
    )
}

fn timeline(deployment: &Deployment) -> String {
    let figure = |drawing: &Drawing, keys: &str, note: &str| {
        format!(
            "<figure>\n<p>{keys}</p>\n<div class=\"scroll\" tabindex=\"0\">{}</div>\n<figcaption>{} {note}</figcaption>\n</figure>\n",
            drawing.svg,
            Escape(&drawing.caption),
        )
    };
    let frame = figure(
        &drawings::frame(deployment),
        "<span class=\"key one\"></span>computes <span class=\"key two\"></span>loads weights <span class=\"key none\"></span>waits",
        "A row is a macro, numbered core.macro; a stripe is a layer, whose name stands above it where there is room. A core's macros \
         load one after the other, and may load while those of an earlier layer compute.",
    );
    let layer = figure(
        &drawings::layer(deployment),
        "<span class=\"key one\"></span>macro computes <span class=\"key two\"></span>weights are written \
         <span class=\"key three\"></span>decoder, ports",
        "The paler, the smaller the share of the time in which a part is busy.",
    );
    section("What cores and macros do", &(frame + &layer))
}

fn kept(deployment: &Deployment) -> String {
    let network = &deployment.package.network;
    let maps = drawings::kept(deployment);
    let grids: String = maps
        .iter()
        .map(|map| {
            format!(
                "<div style=\"width:min(100%,max(280px,{}px))\"><h3>{} <small>{}</small></h3>\n{}</div>\n",
                map.size[0],
                Escape(&map.caption),
                map.note,
                map.svg,
            )
        })
        .collect();
    let binned = maps.iter().any(|map| map.binned);
    let shades =
        if binned { " Where a cell stands for several groups, its shade is the share that is kept." } else { "" };
    section(
        "What was kept of each layer's weights",
        &format!(
            "<p class=\"note\"><span class=\"key one\"></span>kept <span class=\"key none\"></span>zero. A cell is a group of \
             {} filters × {} channels at one kernel position. A row is a filter set; its columns are channel blocks, each with its \
             kernel positions. Beside a name: filter sets × channel blocks × kernel positions.{shades}</p>\n\
             <div class=\"grids\">\n{grids}</div>\n",
            network.group.filters, network.group.channels,
        ),
    )
}

fn training(metrics: &Metrics) -> String {
    let note = |text: &str| format!("<p class=\"note\">{text}</p>\n");
    let body = match metrics {
        Metrics::Missing => note("There is no metrics.jsonl in this folder, so there are no curves to draw."),
        Metrics::Unreadable(reason) => note(&format!("metrics.jsonl cannot be read: {}.", Escape(reason))),
        Metrics::Read { epochs, skipped } => {
            let mut body = match epochs.is_empty() {
                true => note("metrics.jsonl holds no epochs."),
                false => training_curves(epochs),
            };
            if let Some(first) = skipped.first() {
                body += &format!(
                    "<p class=\"bad\">Skipped {} of metrics.jsonl that could not be read, the first of them line {first}.</p>\n",
                    count(skipped.len(), "line"),
                );
            }
            body
        }
    };
    section("Training", &body)
}

fn training_curves(epochs: &[Epoch]) -> String {
    let mut phases: Vec<(usize, &str)> = Vec::new();
    for (index, epoch) in epochs.iter().enumerate() {
        if phases.last().is_none_or(|(_, phase)| *phase != epoch.phase) {
            phases.push((index, &epoch.phase));
        }
    }
    let curve =
        |style, name, value: fn(&Epoch) -> f64| Curve { style, name, values: epochs.iter().map(value).collect() };
    let mut shares = vec![
        curve(1, "test accuracy", |epoch| epoch.test_accuracy),
        curve(2, "train accuracy", |epoch| epoch.train_accuracy),
    ];
    let mut keys =
        "<span class=\"key one\"></span>test accuracy <span class=\"key two\"></span>train accuracy".to_owned();
    if epochs.iter().any(|epoch| epoch.group_sparsity > 0.0) {
        shares.push(curve(3, "zero groups", |epoch| 100.0 * epoch.group_sparsity));
        keys += " <span class=\"key three\"></span>zero groups";
    }
    let loss = [curve(1, "loss", |epoch| epoch.loss)];
    let last = &epochs[epochs.len() - 1];
    format!(
        "<div class=\"charts\">\n<figure>\n<p>{keys}</p>\n{}</figure>\n<figure>\n<p><span class=\"key one\"></span>loss</p>\n{}</figure>\n</div>\n\
         <p class=\"note\">Epochs of all phases, one after the other; a dashed line is where a phase begins. After the last of {}: \
         test accuracy {:.2} %, train accuracy {:.2} %, loss {:.4} nats.</p>\n",
        svg::curves("Accuracy by epoch, in percent", "%", &shares, &phases),
        svg::curves("Loss by epoch, in nats", "nats", &loss, &phases),
        count(epochs.len(), "epoch"),
        last.test_accuracy,
        last.train_accuracy,
        last.loss,
    )
}

fn provenance(deployment: &Deployment) -> String {
    let provenance = &deployment.package.provenance;
    let code = |text: &str| format!("<code>{}</code>", Escape(text));
    let rows = [
        ("classes", classes(&deployment.package.network.classes)),
        ("data set", Escape(&provenance.dataset).to_string()),
        ("SHA-256 of its test split", code(&provenance.data_sha256)),
        ("SHA-256 of the validated split", code(&deployment.data_sha256)),
        ("seed", provenance.seed.to_string()),
        ("made by mars", Escape(&provenance.crate_version).to_string()),
        ("float accuracy at export", accuracy(provenance.float_accuracy)),
        ("fake-quant accuracy at export", accuracy(provenance.fake_quant_accuracy)),
    ];
    let rows = rows.map(|(name, value)| vec![name.into(), value]);
    section(
        "Recipe and provenance",
        &format!(
            "{}<pre tabindex=\"0\">{}</pre>\n",
            table_of_words(&["what", "value"], &rows),
            Escape(&provenance.recipe)
        ),
    )
}

/// The number of classes and the first names.
fn classes(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let rest = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}: {}{rest}", names.len(), Escape(&shown.join(", ")))
}
