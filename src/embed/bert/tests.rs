//! Our forward pass against candle's, on small models with random weights; no files needed.

use super::*;
use crate::embed::stock::StockBert;
use candle_core::{Device, Tensor};
use fastrand::Rng;
use std::collections::HashMap;

const VOCABULARY: u32 = 50;
const POSITIONS: usize = 90;
const HEAD: usize = 32;

/// Sizes that every instruction set's panels fit.
fn config(layers: usize, heads: usize) -> String {
    let (hidden, inner) = (heads * 32, heads * 64);
    format!(
        r#"{{"vocab_size": {VOCABULARY}, "hidden_size": {hidden}, "num_hidden_layers": {layers}, "num_attention_heads":
        {heads}, "intermediate_size": {inner}, "max_position_embeddings": {POSITIONS}, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "position_embedding_type": "absolute", "model_type": "bert"}}"#
    )
}

/// The bytes of a `model.safetensors` for that configuration.
fn weights(config: &BertConfig, seed: u64) -> Vec<u8> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let mut random = Rng::with_seed(seed);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize], around: f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| around + (random.f32() - 0.5) * 0.4).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    for (name, rows) in [("word", config.vocab_size), ("position", config.max_position_embeddings), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0);
    }
    let mut norms = vec!["embeddings".to_owned()];
    for layer in 0..config.num_hidden_layers {
        let layer = format!("encoder.layer.{layer}");
        for (name, width, depth) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            add(format!("{layer}.{name}.weight"), &[width, depth], 0.0);
            add(format!("{layer}.{name}.bias"), &[width], 0.0);
        }
        norms.extend([format!("{layer}.attention.output"), format!("{layer}.output")]);
    }
    for norm in norms {
        add(format!("{norm}.LayerNorm.weight"), &[hidden], 1.0);
        add(format!("{norm}.LayerNorm.bias"), &[hidden], 0.0);
    }
    add("verifier.dense.weight".into(), &[HEAD, FEATURES * hidden], 0.0);
    add("verifier.dense.bias".into(), &[HEAD], 0.0);
    add("verifier.score.weight".into(), &[1, HEAD], 0.0);
    add("verifier.score.bias".into(), &[1], 0.0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    std::fs::read(file).unwrap()
}

fn load(json: &str, pooling: Pooling, precision: Precision, threads: usize, kernels: Kernels) -> Bert {
    let config = BertConfig::parse(json.as_bytes()).unwrap();
    let weights = weights(&config, 1);
    Bert::load(config, Kind::Embedder(pooling), &weights, precision, (threads, Cores::default()), kernels).unwrap()
}

fn sequences(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut random = Rng::with_seed(seed);
    lengths.iter().map(|len| (0..*len).map(|_| random.u32(0..VOCABULARY)).collect()).collect()
}

fn run(model: &dyn Forward, sequences: &[Vec<u32>]) -> Vec<Arc<[f32]>> {
    model.forward(&sequences.iter().map(|ids| Input::text(ids)).collect::<Vec<_>>()).unwrap()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_vectors_of_candle() {
    let sequences = sequences(2, &[1, 9, 90, 17, 16, 2, 33, 40, 5, 64]);
    for (layers, heads, pooling) in [(2, 3, Pooling::Mean), (1, 13, Pooling::Cls)] {
        let json = config(layers, heads);
        let file = weights(&BertConfig::parse(json.as_bytes()).unwrap(), 1);
        let stock = StockBert::load(json.as_bytes(), pooling, file, Device::Cpu, 1).unwrap();
        let expected = run(&stock, &sequences);
        for number in 0..Kernels::all().len() {
            for threads in 1..=3 {
                for (precision, most) in [(Precision::F32, 1e-5), (Precision::Bf16, 1.6e-2)] {
                    let kernels = Kernels::all().swap_remove(number);
                    let model = load(&json, pooling, precision, threads, kernels);
                    for batch in [&sequences[..], &sequences[..1], &sequences[2..3], &sequences[3..6]] {
                        let first = sequences.iter().position(|s| s == &batch[0]).unwrap();
                        for (vector, expected) in run(&model, batch).iter().zip(&expected[first..]) {
                            let off = furthest(vector, expected);
                            let name = model.encoder.kernels.name;
                            assert!(off < most, "{name}, {threads} threads, {precision:?}, {pooling:?}: {off}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_its_batch_to_the_last_bit() {
    let model = load(&config(2, 2), Pooling::Mean, Precision::Bf16, 2, Kernels::best());
    let mut random = Rng::with_seed(3);
    let lengths: Vec<usize> = (0..30).map(|_| random.usize(1..80)).collect();
    let all = sequences(4, &lengths);
    let alone: Vec<_> = all.iter().map(|one| run(&model, std::slice::from_ref(one)).remove(0)).collect();
    for _ in 0..20 {
        let mut order: Vec<usize> = (0..all.len()).collect();
        random.shuffle(&mut order);
        order.truncate(random.usize(1..=all.len()));
        let batch: Vec<_> = order.iter().map(|at| all[*at].clone()).collect();
        for (at, vector) in order.iter().zip(run(&model, &batch)) {
            let (alone, vector) = (&alone[*at], &vector);
            assert!(alone.iter().zip(vector.iter()).all(|(x, y)| x.to_bits() == y.to_bits()), "{at} in {order:?}");
        }
    }
}

/// The score of a pair by candle, and a head written out.
fn score_by_candle(json: &str, file: &[u8], ids: &[u32], second: usize) -> f32 {
    let file = candle_nn::VarBuilder::from_buffered_safetensors(file.to_vec(), candle_core::DType::F32, &Device::Cpu);
    let (file, config) = (file.unwrap(), serde_json::from_str(json).unwrap());
    let model = candle_transformers::models::bert::BertModel::load(file.clone(), &config).unwrap();
    let types: Vec<u32> = (0..ids.len()).map(|at| u32::from(at >= second)).collect();
    let row = |values: &[u32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap();
    let rows = model.forward(&row(ids), &row(&types), None).unwrap().squeeze(0).unwrap();
    let mean = |start, len| rows.narrow(0, start, len).unwrap().mean(0).unwrap();
    let (first, other) = (mean(0, second), mean(second, ids.len() - second));
    let parts =
        [rows.get(0).unwrap(), mean(0, ids.len()), (&first - &other).unwrap().abs().unwrap(), (first * other).unwrap()];
    let features = Tensor::cat(&parts, 0).unwrap().unsqueeze(0).unwrap();
    let width = config.hidden_size;
    let dense = candle_nn::linear(FEATURES * width, HEAD, file.pp("verifier.dense")).unwrap();
    let score = candle_nn::linear(HEAD, 1, file.pp("verifier.score")).unwrap();
    use candle_nn::Module;
    let hidden = dense.forward(&features).unwrap().gelu_erf().unwrap();
    score.forward(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_scores_of_candle() {
    let json = config(2, 3);
    let parsed = BertConfig::parse(json.as_bytes()).unwrap();
    let file = weights(&parsed, 7);
    let sequences = sequences(8, &[2, 9, 90, 17, 16, 33, 40, 5, 64]);
    let pairs: Vec<_> = sequences.iter().map(|ids| Input { ids, second: ids.len().div_ceil(3) }).collect();
    let expected: Vec<_> = pairs.iter().map(|pair| score_by_candle(&json, &file, pair.ids, pair.second)).collect();
    for number in 0..Kernels::all().len() {
        for (threads, precision, most) in
            [(1, Precision::F32, 1e-4), (3, Precision::F32, 1e-4), (2, Precision::Bf16, 0.1)]
        {
            let (parsed, kernels) = (parsed.clone(), Kernels::all().swap_remove(number));
            let name = kernels.name;
            let model =
                Bert::load(parsed, Kind::Verifier, &file, precision, (threads, Cores::default()), kernels).unwrap();
            for (from, to) in [(0, pairs.len()), (1, 2), (2, 3)] {
                let scores = model.forward(&pairs[from..to]).unwrap();
                for (score, expected) in scores.iter().zip(&expected[from..]) {
                    let off = (score[0] - expected).abs();
                    assert!(score.len() == 1 && off < most, "{name}, {threads} threads, {precision:?}: {off}");
                }
            }
        }
    }
}

#[test]
fn weights_in_8_bits_are_their_codes_times_the_factor_of_their_row() {
    let json = config(1, 1);
    let parsed = BertConfig::parse(json.as_bytes()).unwrap();
    let full = weights(&parsed, 9);
    let read = safetensors::SafeTensors::deserialize(&full).unwrap();
    // The same, with every matrix rounded to codes.
    let mut rounded = Vec::new();
    let mut coded = Vec::new();
    for (name, tensor) in read.tensors() {
        let values: Vec<f32> =
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let width = *tensor.shape().last().unwrap();
        let (mut scales, mut codes, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for row in values.chunks_exact(width) {
            let scale = row.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            scales.push(scale);
            codes.extend(row.iter().map(|x| (x / scale).round() as i8));
        }
        let wide = scales.iter().flat_map(|scale| std::iter::repeat_n(scale, width));
        back.extend(codes.iter().zip(wide).map(|(code, scale)| f32::from(*code) * scale));
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let shape = tensor.shape().to_vec();
        let (f32_type, is_matrix) = (safetensors::Dtype::F32, shape.len() == 2);
        rounded.push((name.clone(), f32_type, shape.clone(), bytes(if is_matrix { &back } else { &values })));
        if is_matrix {
            let codes = codes.iter().map(|code| code.cast_unsigned()).collect();
            coded.push((format!("{name}.scale"), f32_type, vec![shape[0]], bytes(&scales)));
            coded.push((name, safetensors::Dtype::I8, shape, codes));
        } else {
            coded.push((name, f32_type, shape, bytes(&values)));
        }
    }
    let file = |tensors: &[(String, safetensors::Dtype, Vec<usize>, Vec<u8>)]| {
        let views: Vec<_> = tensors
            .iter()
            .map(|t| (t.0.as_str(), safetensors::tensor::TensorView::new(t.1, t.2.clone(), &t.3).unwrap()))
            .collect();
        safetensors::serialize(views, None).unwrap()
    };
    let score = |file: &[u8]| {
        let cores = (1, Cores::default());
        let model = Bert::load(parsed.clone(), Kind::Verifier, file, Precision::F32, cores, Kernels::best()).unwrap();
        model.forward(&[Input { ids: &[3, 14, 15, 9, 2], second: 2 }]).unwrap()[0][0]
    };
    assert_eq!(score(&file(&coded)), score(&file(&rounded)));
    coded.retain(|(name, ..)| name != "encoder.layer.0.output.dense.weight.scale");
    let broken = Bert::load(
        parsed.clone(),
        Kind::Verifier,
        &file(&coded),
        Precision::F32,
        (1, Cores::default()),
        Kernels::best(),
    );
    assert_eq!(broken.map(|_| ()).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn tokens_the_model_does_not_have_are_refused() {
    let model = load(&config(1, 1), Pooling::Mean, Precision::F32, 1, Kernels::best());
    for bad in [vec![], vec![VOCABULARY], vec![1; POSITIONS + 1]] {
        assert_eq!(model.forward(&[Input::text(&bad)]).unwrap_err().kind, ErrorKind::Internal);
    }
    assert_eq!(model.forward(&[Input::text(&[1; POSITIONS])]).unwrap().len(), 1);
}

#[test]
fn a_model_that_the_kernels_cannot_run_is_refused_by_what_it_is() {
    let kind = |json: &str, file: &[u8]| {
        let config = BertConfig::parse(json.as_bytes())?;
        let kind = Kind::Embedder(Pooling::Mean);
        Bert::load(config, kind, file, Precision::F32, (1, Cores::default()), Kernels::best()).map(|_| ())
    };
    let json = config(1, 2);
    let file = weights(&BertConfig::parse(json.as_bytes()).unwrap(), 1);
    assert!(kind(&json, &file).is_ok());
    let error = |json: &str, file: &[u8]| kind(json, file).unwrap_err().kind;
    assert_eq!(error(&json.replace("\"gelu\"", "\"relu\""), &file), ErrorKind::Unsupported);
    assert_eq!(error(&json.replace("absolute", "relative_key"), &file), ErrorKind::Unsupported);
    assert_eq!(
        error(&json.replace("\"num_attention_heads\":\n        2", "\"num_attention_heads\": 16"), &file),
        ErrorKind::Unsupported
    );
    assert_eq!(error(&config(2, 2), &file), ErrorKind::Corrupt, "a layer is missing");
    assert_eq!(error(&config(1, 4), &file), ErrorKind::Corrupt, "of another width");
    assert_eq!(error(&json, &file[..file.len() - 5]), ErrorKind::Corrupt);
    assert_eq!(error("{", &file), ErrorKind::Corrupt);
}

#[test]
fn positions_of_roberta_start_behind_the_padding() {
    let json =
        config(1, 2).replace("\"bert\"", "\"xlm-roberta\"").replace("\"pad_token_id\": 0", "\"pad_token_id\": 1");
    let config = BertConfig::parse(json.as_bytes()).unwrap();
    assert_eq!((config.first_position(), config.longest_text()), (2, POSITIONS - 2));
    let model = load(&json, Pooling::Mean, Precision::F32, 1, Kernels::best());
    assert_eq!(model.encoder.weights.positions.len(), (POSITIONS - 2) * config.hidden_size);
    assert!(model.forward(&[Input::text(&[1; POSITIONS - 1])]).is_err());
}
