//! The whole way: `Embed` over gRPC, 16 callers with one text each, beside the forward pass alone.

use std::path::Path;
use std::time::Instant;

use futures::stream::{self, StreamExt};
use reprise::app::App;
use reprise::config::Config;
use reprise::embed::Model;
use reprise::grpc::pb;
use reprise::grpc::pb::embedding_service_client::EmbeddingServiceClient;

use super::compare::median;
use super::texts;

const CALLERS: usize = 16;
const ROUNDS: usize = 5;

pub fn run(model_dir: &Path, model: &Model) {
    let questions = texts::questions(2_000);
    let ids: Vec<_> = questions.iter().map(|text| model.tokens(text).unwrap()).collect();
    let batch: Vec<_> = ids.iter().map(Vec::as_slice).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let models = model_dir.parent().unwrap();
    let sets = [
        format!("data_dir={:?}", folder.path().display().to_string()),
        format!("models.dir={:?}", models.display().to_string()),
        "server.grpc_addr=127.0.0.1:0".into(),
        "server.http_addr=127.0.0.1:0".into(),
        "embedding.memo_bytes=0".into(), // every text must be computed
        r#"providers=[{name="scripted",kind="scripted",models=["scripted"]}]"#.into(),
    ];
    let config = Config::load(None, std::iter::empty(), &sets).unwrap();
    let app = runtime.block_on(App::start(config)).unwrap();
    let address = format!("http://{}", app.grpc_addr());
    let clients: Vec<_> =
        (0..CALLERS).map(|_| runtime.block_on(EmbeddingServiceClient::connect(address.clone())).unwrap()).collect();
    let (mut alone, mut served) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for batch in batch.chunks(CALLERS) {
            std::hint::black_box(model.forward(batch).unwrap());
        }
        alone.push(questions.len() as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        runtime.block_on(stream::iter(&clients).enumerate().for_each_concurrent(CALLERS, |(number, client)| {
            let own = questions.iter().skip(number).step_by(CALLERS);
            async move {
                for text in own {
                    let context = pb::RequestContext { tenant: "default".into(), ..Default::default() };
                    let request =
                        pb::EmbedRequest { context: Some(context), texts: vec![text.clone()], ..Default::default() };
                    client.clone().embed(request).await.unwrap();
                }
            }
        }));
        served.push(questions.len() as f64 / started.elapsed().as_secs_f64());
    }
    let (alone, served) = (median(&mut alone), median(&mut served));
    println!("\ngRPC Embed, {CALLERS} callers with one text each: {served:.0} texts/s");
    println!("forward pass alone, batches of {CALLERS}:          {alone:.0} texts/s, {:.2}x", served / alone);
    runtime.block_on(app.stop()).unwrap();
}
