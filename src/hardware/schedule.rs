//! Schedule: when each macro loads and computes.
//!
//! Layers follow each other, since a layer needs the whole map before it; the slowest core ends a layer. A core's accesses of a
//! layer are cut into tiles that fit a macro. A tile goes to the core's macro that is free first; its weights come through the
//! core's one write port, while the other macros compute, also those of an earlier layer. A macro that loads doesn't compute.

use serde::Serialize;

use super::config::Hardware;
use super::mapping::Tile;
use super::workload::{CoreLayer, LayerWork};

/// Whether weights have to be loaded, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loading {
    /// All weights stay in the macros.
    Never,
    /// From the cores' weight SRAMs.
    WeightSram,
    /// From the next memory level, through the weight SRAMs.
    NextLevel,
}

/// What a macro does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Its cells are written.
    Load,
    /// It makes accesses.
    Compute,
}

/// A stretch of a macro's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The core.
    pub core: usize,
    /// The macro within the core.
    pub unit: usize,
    /// Index in [`Timeline::layers`].
    pub layer: usize,
    /// What it does.
    pub activity: Activity,
    /// First cycle.
    pub start: u64,
    /// Cycle after the last.
    pub end: u64,
}

/// When each layer runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerTime {
    /// Name.
    pub name: String,
    /// First cycle in which its inputs are there.
    pub start: u64,
    /// Cycle after the last.
    pub end: u64,
}

/// What happens while `frames` frames are computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Frames ([`Hardware::frames_per_load`]).
    pub frames: usize,
    /// All layers, one after the other.
    pub layers: Vec<LayerTime>,
    /// What the macros do.
    pub spans: Vec<Span>,
}

impl Timeline {
    /// Cycles of all frames.
    pub fn cycles(&self) -> u64 {
        self.layers.last().map_or(0, |layer| layer.end)
    }
}

/// A core's state between layers.
#[derive(Clone)]
struct Core {
    /// When its write port is free.
    port: u64,
    /// When each macro is free.
    macros: Vec<u64>,
}

/// Runs the layers.
pub(super) fn schedule(layers: &[LayerWork], hardware: &Hardware, loading: Loading) -> Timeline {
    let frames = hardware.frames_per_load as u64;
    let idle = Core { port: 0, macros: vec![0; hardware.macros_per_core] };
    let mut cores = vec![idle; hardware.cores];
    let mut timeline = Timeline { frames: hardware.frames_per_load, layers: Vec::new(), spans: Vec::new() };
    let mut start = 0;
    for (index, layer) in layers.iter().enumerate() {
        let mut end = start;
        for (number, (core, state)) in layer.cores.iter().zip(&mut cores).enumerate() {
            // Reading and writing maps overlaps with the accesses; the longest of the three counts.
            end = end.max(start + frames * port_cycles(core, hardware));
            for tile in &core.work.tiles {
                let unit = (0..state.macros.len()).min_by_key(|&unit| state.macros[unit]).expect("a core has macros");
                let mut span = |activity, start, end| {
                    let layer = index;
                    timeline.spans.push(Span { core: number, unit, layer, activity, start, end });
                };
                let mut ready = state.macros[unit];
                if loading != Loading::Never {
                    let load = ready.max(state.port);
                    ready = load + load_cycles(tile, hardware, loading);
                    state.port = ready;
                    span(Activity::Load, load, ready);
                }
                let compute = ready.max(start);
                state.macros[unit] = compute + frames * tile.accesses * layer.access_cycles();
                span(Activity::Compute, compute, state.macros[unit]);
                end = end.max(state.macros[unit]);
            }
        }
        end += (2 * frames * layer.spilled_bits).div_ceil(hardware.memory.next_level_bits_per_cycle);
        timeline.layers.push(LayerTime { name: layer.name.clone(), start, end });
        start = end;
    }
    timeline
}

impl LayerWork {
    /// Cycles that a macro takes for one of its accesses, for all output pixels.
    fn access_cycles(&self) -> u64 {
        let conv = self.conv.as_ref().expect("only convolutions have accesses");
        conv.shape.output.pixels() as u64 * conv.precision.cycles
    }
}

fn port_cycles(core: &CoreLayer, hardware: &Hardware) -> u64 {
    let read = core.read_bits.div_ceil(hardware.memory.feature_read_bits_per_cycle);
    read.max(core.write_bits.div_ceil(hardware.memory.feature_write_bits_per_cycle))
}

/// The slowest of the write port, the weight SRAM, the core's share of the next level, and the index decoder.
fn load_cycles(tile: &Tile, hardware: &Hardware, loading: Loading) -> u64 {
    let memory = &hardware.memory;
    let write = tile.cell_bits.div_ceil(memory.write_bits_per_cycle);
    let read = tile.packed_bits.div_ceil(memory.weight_bits_per_cycle);
    let decode = tile.index_bits.div_ceil(memory.index_bits_per_cycle);
    let fetch = match loading {
        Loading::NextLevel => (tile.packed_bits * hardware.cores as u64).div_ceil(memory.next_level_bits_per_cycle),
        _ => 0,
    };
    write.max(read).max(decode).max(fetch)
}
