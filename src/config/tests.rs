use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use super::schema::{Key, Kind, Node, ROOT};
use super::*;
use crate::types::{CacheMode, Error};

type Env<'a> = &'a [(&'a str, &'a str)];

fn load_with(file: &str, env: Env, sets: &[&str]) -> Result<Loaded, Error> {
    let mut on_disk = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    let sets: Vec<_> = sets.iter().map(|s| s.to_string()).collect();
    Config::load_with_origins(Some(on_disk.path()), env, &sets)
}

fn load(file: &str, env: Env, sets: &[&str]) -> Config {
    load_with(file, env, sets).unwrap().config
}

fn refused(file: &str, env: Env, sets: &[&str]) -> String {
    load_with(file, env, sets).expect_err("was accepted").to_string()
}

/// Every leaf of the schema, with one key made up for each map and index 0 for each list.
fn leaves(keys: &[Key], prefix: &str, into: &mut Vec<(String, Kind)>) {
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        match key.node {
            Node::Leaf(kind) => into.push((path, kind)),
            Node::Table(keys) => leaves(keys, &format!("{path}."), into),
            Node::Map(keys) => leaves(keys, &format!("{path}.some."), into),
            Node::List(keys) => leaves(keys, &format!("{path}.0."), into),
        }
    }
}

fn sample(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Path => "text",
        Kind::Url => "http://127.0.0.1:1",
        Kind::Flag => "true",
        Kind::Whole(_) => "9",
        Kind::Number => "0.5",
        Kind::Money => "0.15",
        Kind::Duration => "3s",
        Kind::Address => "127.0.0.1:9999",
        Kind::Texts => "a,b",
        Kind::Choice(names) => names[0],
    }
}

#[test]
fn defaults_are_valid_and_need_nothing() {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.warnings(|_| false), Vec::<String>::new());
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = "[cache]\nttl = \"1h\"\nmin_similarity = 0.8\ntop_k = 3\n";
    let env = &[("REPRISE_CACHE__MIN_SIMILARITY", "0.85"), ("REPRISE_CACHE__TOP_K", "4"), ("PATH", "/bin")];
    let config = load(file, env, &["cache.top_k=5", "cache.top_k=6"]);
    assert_eq!(config.cache.mode, CacheMode::On);
    assert_eq!(config.cache.ttl, Duration::from_secs(3600));
    assert_eq!(config.cache.min_similarity, Some(0.85));
    assert_eq!(config.cache.top_k, 6);
}

#[test]
fn an_unknown_key_is_refused_in_every_layer_with_the_nearest_name() {
    assert!(refused("[cache]\nmin_similarty = 0.9", &[], &[]).contains("did you mean cache.min_similarity?"));
    assert!(refused("[casche]\nttl = \"1s\"", &[], &[]).contains("casche: unknown key; did you mean cache?"));
    let message = refused("", &[("REPRISE_CACHE__TLL", "1h")], &[]);
    assert!(message.contains("did you mean REPRISE_CACHE__TTL? (from environment variable REPRISE_CACHE__TLL)"));
    assert!(refused("", &[], &["stores.redis_ulr=x"]).contains("did you mean stores.redis_url? (from --set)"));
    let file = "[[providers]]\nname = \"p\"\nkind = \"local\"\nbase_ulr = \"x\"";
    assert!(refused(file, &[], &[]).contains("providers.0.base_ulr: unknown key; did you mean providers.0.base_url?"));
    let message = refused("[namespaces.faq.cache]\ntt1 = \"1h\"", &[], &[]);
    assert!(message.contains("namespaces.faq.cache.tt1: unknown key; did you mean namespaces.faq.cache.ttl?"));
}

#[test]
fn a_key_in_the_wrong_place_is_pointed_to_the_right_one() {
    assert!(refused("min_similarity = 0.9", &[], &[]).contains("did you mean cache.min_similarity?"));
    let message = refused("", &[("REPRISE_CACHE_TTL", "1h")], &[]);
    assert!(message.contains("did you mean REPRISE_CACHE__TTL?"), "{message}");
}

#[test]
fn a_wrong_type_names_key_layer_and_what_was_expected() {
    let message = refused("[cache]\ntop_k = \"many\"", &[], &[]);
    assert!(message.contains("cache.top_k: expected a whole number from 0, got \"many\" (from "), "{message}");
    assert!(message.contains(".toml)"), "{message}");
    let message = refused("", &[("REPRISE_CACHE__TTL", "soon")], &[]);
    assert!(message.contains("expected a duration, for example \"250ms\" or \"24h\", got \"soon\""), "{message}");
    let message = refused("", &[], &["cache.mode=of"]);
    assert!(message.contains("cache.mode: expected one of on, shadow, off, got \"of\" (from --set)"), "{message}");
    assert!(refused("cache = 3", &[], &[]).contains("cache: expected a table, got a whole number"));
}

#[test]
fn all_problems_are_told_together() {
    let file = "[cache]\nttl = \"0s\"\nbogus = 1\n[limits]\nmax_batch = 0";
    let error = load_with(file, &[], &["cache.top_k=101", "embedding.threads=-1"]).unwrap_err();
    let fields: BTreeSet<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    let expected = ["cache.bogus", "cache.top_k", "cache.ttl", "embedding.threads", "limits.max_batch"];
    assert_eq!(fields, BTreeSet::from(expected));
    assert!(error.message.starts_with("the configuration has 5 problems:"));
}

#[test]
fn providers_can_be_set_as_a_list_or_by_index() {
    let whole = "providers=[{name=\"p\",kind=\"scripted\",models=[\"m\"]}]";
    let config = load("[[providers]]\nname = \"old\"\nkind = \"local\"", &[], &[whole, "providers.0.latency=50ms"]);
    assert_eq!(config.providers.len(), 1);
    assert_eq!(config.providers[0].name, "p");
    assert_eq!(config.providers[0].latency, Duration::from_millis(50));

    let env = &[
        ("REPRISE_PROVIDERS__0__BASE_URL", "http://127.0.0.1:9/v1"),
        ("REPRISE_PROVIDERS__0__KIND", "openai"),
        ("REPRISE_PROVIDERS__0__MODELS", "a,b"),
        ("REPRISE_PROVIDERS__0__NAME", "p"),
    ];
    assert_eq!(load("", env, &[]).providers[0].models, ["a", "b"]);
    assert!(refused("", &[], &["providers.2.name=x"]).contains("there are 0 so far"));
    assert!(refused("", &[], &["providers.0.name=x"]).contains("providers.0.kind: must be given"));
}

#[test]
fn more_than_ten_providers_can_come_from_the_environment() {
    let variable = |i: usize, key: &str| format!("REPRISE_PROVIDERS__{i}__{key}");
    let of = |i: usize| [(variable(i, "NAME"), format!("p{i}")), (variable(i, "KIND"), "local".to_owned())];
    let config = Config::load(None, (0..12).rev().flat_map(of), &[]).unwrap();
    let names: Vec<_> = config.providers.iter().map(|p| p.name.clone()).collect();
    assert_eq!(names, (0..12).map(|i| format!("p{i}")).collect::<Vec<_>>());
}

#[test]
fn names_with_dots_stand_in_quotes() {
    let config = load("", &[], &["prices.\"gpt-4.1\".input=2", "prices.\"gpt-4.1\".output=8.00"]);
    assert_eq!(config.prices["gpt-4.1"].output.to_string(), "8.00");
    let config = load("", &[], &["namespaces.faq.cache.min_similarity=0.7"]);
    assert_eq!(config.cache_of("faq").min_similarity, Some(0.7));
    assert_eq!(config.cache_of("other").min_similarity, None);
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let env = &[
        ("REPRISE_TEST_QDRANT_URL", "http://x"),
        ("REPRISE_CONFIG", "x.toml"),
        ("REPRISE_ADDR", "http://x"),
        ("REPRISE_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("REPRISE_SERVICE_HOST", "10.0.0.1"),
        ("REPRISE_DEFAULT_MODEL", ""),
        ("REPRISE_OPENAI_KEY", "sk-secret"),
    ];
    let file = "[[providers]]\nname=\"p\"\nkind=\"openai\"\nbase_url=\"http://h/v1\"\nmodels=[\"m\"]\n\
                api_key_env=\"REPRISE_OPENAI_KEY\"";
    assert_eq!(load(file, env, &[]).default_model, None);
    assert!(!refused("", env, &[]).contains("sk-secret"));
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (set, field) in [
        ("cache.min_similarity=nan", "cache.min_similarity"),
        ("cache.min_similarity=1.5", "cache.min_similarity"),
        ("namespaces.a.cache.min_similarity=-2", "namespaces.a.cache.min_similarity"),
        ("namespaces.\"a b\".cache.mode=on", "namespaces.\"a b\""),
        ("cache.lookup_budget=0s", "cache.lookup_budget"),
        ("server.http_addr=127.0.0.1:7070", "server.http_addr"),
        ("server.tenants=a, b c", "server.tenants.1"),
        ("stores.write_queue=0", "stores.write_queue"),
        ("stores={entries=\"redis\",redis_ca_file=\"ca.pem\"}", "stores.redis_ca_file"),
        ("stores={redis_url=\"rediss://h\",redis_cert_file=\"c.pem\"}", "stores.redis_cert_file"),
        ("stores={redis_url=\"rediss://h\",redis_key_file=\"k.pem\"}", "stores.redis_cert_file"),
        ("providers=[{name=\"p\",kind=\"local\",ca_file=\"ca.pem\"}]", "providers.0.ca_file"),
        ("log.level=reprise=loud", "log.level"),
        ("prices.m={input=\"-1\",output=\"1\"}", "prices.m.input"),
        ("providers=[{name=\"p\",kind=\"openai\",models=[\"m\"]}]", "providers.0.base_url"),
        ("providers=[{name=\"p\",kind=\"openai\",models=[\"m\"],base_url=\"ftp://h\"}]", "providers.0.base_url"),
        (
            "providers=[{name=\"p\",kind=\"openai\",models=[\"m\"],base_url=\"http://h\",ca_file=\"ca.pem\"}]",
            "providers.0.ca_file",
        ),
        ("providers=[{name=\"p\",kind=\"scripted\"}]", "providers.0.models"),
        ("providers=[{name=\"p\",kind=\"scripted\",models=[\"m\"],error_rate=2}]", "providers.0.error_rate"),
        ("providers=[{name=\"p\",kind=\"local\",max_tokens=0}]", "providers.0.max_tokens"),
        ("providers=[{name=\"p\",kind=\"scripted\",models=[\"m\"],max_tokens=9}]", "providers.0.max_tokens"),
        ("providers=[{name=\"p\",kind=\"local\"},{name=\"p\",kind=\"local\"}]", "providers.1.name"),
        ("providers=[{name=\"p\",kind=\"anthropic\",models=[\"m\"],api_key_env=\"sk-1\"}]", "providers.0.api_key_env"),
    ] {
        let error = load_with("", &[], &[set]).expect_err(set);
        assert_eq!(error.violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), [field], "{set}");
    }
}

#[test]
fn values_no_clock_and_no_queue_can_hold_are_refused() {
    let scripted = |key: &str| format!("providers=[{{name=\"p\",kind=\"scripted\",models=[\"m\"],{key}}}]");
    for field in [
        "server.request_timeout",
        "server.drain_timeout",
        "cache.ttl",
        "namespaces.a.cache.lookup_budget",
        "stores.timeout",
    ] {
        load("", &[], &[&format!("{field}=3650days")]);
        assert_eq!(refused("", &[], &[&format!("{field}=3651days")]), too_large(field, "3650 days"));
    }
    for key in ["connect_timeout", "timeout", "latency", "token_latency"] {
        load("", &[], &[&scripted(&format!("{key}=\"3650days\""))]);
        let message = refused("", &[], &[&scripted(&format!("{key}=\"500000000000years\""))]);
        assert_eq!(message, too_large(&format!("providers.0.{key}"), "3650 days"));
    }
    load("", &[], &[&scripted("tokens=10000000")]);
    let message = refused("", &[], &[&scripted("tokens=10000001")]);
    assert_eq!(message, too_large("providers.0.tokens", "10000000"));
    for field in [
        "stores.write_queue",
        "embedding.queue",
        "embedding.batch_tokens",
        "limits.max_messages",
        "limits.max_batch",
        "limits.max_concurrent",
    ] {
        load("", &[], &[&format!("{field}=10000000")]);
        assert_eq!(refused("", &[], &[&format!("{field}=10000001")]), too_large(field, "10000000"));
    }
    let (most, more) = (1u64 << 50, (1u64 << 50) + 1);
    for field in [
        "server.max_body_bytes",
        "cache.max_entry_bytes",
        "stores.l1_bytes",
        "stores.max_bytes",
        "embedding.memo_bytes",
    ] {
        load("", &[], &[&format!("{field}={most}")]);
        assert_eq!(refused("", &[], &[&format!("{field}={more}")]), too_large(field, "1125899906842624 bytes"));
    }
    let message = refused("", &[], &[&format!("limits.max_prompt_bytes={more}")]);
    assert!(message.contains("limits.max_prompt_bytes: must be at most 1125899906842624 bytes"), "{message}");
}

fn too_large(field: &str, most: &str) -> String {
    format!("configuration: {field}: must be at most {most}")
}

#[test]
fn passwords_are_neither_printed_nor_told_in_errors() {
    let file = "[stores]\nentries = \"redis\"\nredis_url = \"redis://u:hunter2@h:6379\"";
    let printed = load_with(file, &[], &[]).unwrap().to_toml().unwrap();
    assert!(printed.contains("redis://u:redacted@h:6379"));
    let set = "providers=[{name=\"p\",kind=\"openai\",models=[\"m\"],base_url=\"http://u:hunter2@h/v1\"}]";
    let messages = [printed, refused("", &[], &[set]), refused("[stores]\nredis_url = [\"hunter2\"]", &[], &[])];
    for message in messages {
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_url_that_does_not_parse_hides_its_password_too() {
    let config = load("[stores]\nredis_url = \"redis://u:hunter2@h:port\"", &[], &[]);
    assert_eq!(config.redacted().stores.redis_url, "redacted");
}

#[test]
fn the_examples_in_the_readme_load() {
    let readme = include_str!("../../README.md");
    let examples = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let loaded: Vec<_> = examples.map(|example| load(example, &[], &[])).collect();
    assert_eq!(loaded[1].stores.redis_ca_file, loaded[1].providers[0].ca_file);
    let config = &loaded[0];
    assert_eq!(config.providers[0].models, ["gpt-4o-mini"]);
    assert_eq!((config.cache_of("support").max_wrong_rate, config.cache.max_wrong_rate), (0.002, 0.01));
    assert_eq!(config.prices["gpt-4o-mini"].input.to_string(), "0.15");
}

#[test]
fn a_listener_others_can_reach_and_an_absent_key_are_warned_about() {
    let set = "providers=[{name=\"p\",kind=\"anthropic\",models=[\"m\"],api_key_env=\"KEY\"}]";
    let config = load("", &[], &["server.grpc_addr=0.0.0.0:7070", set]);
    let warnings = config.warnings(|_| false);
    assert!(warnings[0].starts_with("server.grpc_addr: 0.0.0.0:7070"));
    assert_eq!(warnings[1], "providers.0.api_key_env: the environment variable KEY is not set");
    assert_eq!(config.warnings(|name| name == "KEY").len(), 1);
}

#[test]
fn a_shared_collection_with_entries_of_its_own_is_warned_about() {
    let qdrant = "stores.vectors=qdrant";
    let warnings = load("", &[], &[qdrant, "stores.qdrant_collection=faq"]).warnings(|_| true);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("stores.qdrant_collection: \"faq\" must not be shared by several replicas"));
    assert_eq!(load("", &[], &[qdrant, "stores.entries=redis"]).warnings(|_| true), Vec::<String>::new());
}

#[test]
fn a_broken_file_is_told_with_its_line() {
    assert!(refused("[cache]\nttl = \n", &[], &[]).contains(".toml line 2: "));
    let absent = Config::load(Some("/nonexistent/reprise.toml".as_ref()), std::iter::empty(), &[]).unwrap_err();
    assert!(absent.to_string().contains("cannot read /nonexistent/reprise.toml"));
}

#[test]
fn the_file_is_the_named_one_then_the_environments_then_the_usual_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(find_file(None, None, folder.path()), None);
    let usual = folder.path().join("reprise.toml");
    std::fs::write(&usual, "").unwrap();
    assert_eq!(find_file(None, Some("".into()), folder.path()), Some(usual));
    assert_eq!(find_file(None, Some("e".into()), folder.path()), Some("e".into()));
    assert_eq!(find_file(Some("n".into()), Some("e".into()), folder.path()), Some("n".into()));
}

#[test]
fn the_schema_and_the_structs_hold_the_same_keys() {
    let mut known = Vec::new();
    leaves(ROOT, "", &mut known);
    // Every key of the schema is taken by the structs, each with a value of its kind.
    let sets: Vec<_> = known.iter().map(|(path, kind)| format!("{path}={}", sample(*kind))).collect();
    let sets: Vec<_> = sets.iter().map(String::as_str).collect();
    let error = load_with("", &[], &sets).expect_err("a provider cannot have every key");
    let told: Vec<_> = error.violations.iter().map(|v| v.description.as_str()).collect();
    assert!(!told.iter().any(|d| d.contains("unknown") || d.contains("expected")), "{told:?}");
    assert!(!error.violations.is_empty(), "{error}");

    // Every key the structs write is in the schema.
    let price = |n: i64| rust_decimal::Decimal::from(n);
    let mut config = Config { default_model: Some("m".into()), ..Config::default() };
    config.models = Models { dir: Some("d".into()), local_dir: Some("l".into()), offline: true };
    config.stores.qdrant_api_key_env = Some("K".into());
    let pem = || Some("x.pem".into());
    (config.stores.redis_ca_file, config.stores.redis_cert_file, config.stores.redis_key_file) = (pem(), pem(), pem());
    config.cache.min_similarity = Some(0.5);
    config.prices.insert("some".into(), PriceConfig { input: price(1), output: price(2) });
    config.namespaces.insert("some".into(), NamespaceConfig { cache: CacheOverride::from(&config.cache) });
    config.providers.push(ProviderConfig {
        name: "p".into(),
        kind: ProviderKind::Scripted,
        models: vec!["m".into()],
        base_url: Some("http://h".into()),
        api_key_env: Some("K".into()),
        api_key_file: Some("f".into()),
        ca_file: Some("f".into()),
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        max_tokens: Some(1),
        latency: Duration::ZERO,
        token_latency: Duration::ZERO,
        tokens: 1,
        error_rate: 0.0,
        error: Some("cut".into()),
    });
    let mut written = BTreeSet::new();
    flatten(&toml::Value::try_from(&config).unwrap(), String::new(), &mut written);
    assert_eq!(written, known.into_iter().map(|(path, _)| path).collect());
}

fn flatten(value: &toml::Value, path: String, into: &mut BTreeSet<String>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(name, value)| flatten(value, below(name), into)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(i, value)| flatten(value, below(&i.to_string()), into));
        }
        _ => drop(into.insert(path)),
    }
}

#[test]
fn every_default_key_is_printed_or_said_to_be_unset() {
    let printed = load_with("", &[], &[]).unwrap().to_toml().unwrap();
    assert!(printed.contains("max_wrong_rate = 0.01\n"), "{printed}");
    let mut known = Vec::new();
    leaves(ROOT, "", &mut known);
    for (path, _) in known.iter().filter(|(path, _)| !path.contains(".0.") && !path.contains(".some.")) {
        let name = path.rsplit('.').next().unwrap();
        let unset = printed.lines().find(|line| line.starts_with("# Not set: ")).unwrap();
        assert!(printed.contains(&format!("\n{name} = ")) || unset.contains(path), "{path} is absent:\n{printed}");
    }
}

#[test]
fn what_is_printed_says_where_it_came_from() {
    let env = &[("REPRISE_CACHE__TTL", "1h")];
    let printed = load_with("", env, &["cache.top_k=5"]).unwrap().to_toml().unwrap();
    assert!(printed.contains("#   cache.ttl (from environment variable REPRISE_CACHE__TTL)\n"));
    assert!(printed.contains("#   cache.top_k (from --set)\n"));
}

fn any_config() -> impl Strategy<Value = Config> {
    let name = "[a-z][a-z0-9_.-]{0,8}";
    (-1.0f32..=1.0, 1u64..10_000_000, 1usize..=100, any::<bool>(), prop::collection::vec(name, 0..4), "[ -~]{1,12}")
        .prop_map(|(similarity, ttl, top_k, flag, names, text)| {
            let mut config = Config::default();
            config.cache.min_similarity = Some(similarity);
            config.cache.ttl = Duration::from_millis(ttl);
            config.cache.top_k = top_k;
            config.models.offline = flag;
            config.stores.redis_prefix = text;
            for name in names {
                let own = CacheOverride { top_k: Some(top_k), ..CacheOverride::default() };
                config.namespaces.insert(name.clone(), NamespaceConfig { cache: own });
                let cents = rust_decimal::Decimal::new(top_k as i64, 2);
                config.prices.insert(name, PriceConfig { input: cents, output: cents });
            }
            config
        })
}

proptest! {
    #[test]
    fn what_is_printed_loads_to_the_same(config in any_config()) {
        let loaded = Loaded { config, origins: BTreeMap::new() };
        let again = load(&loaded.to_toml().unwrap(), &[], &[]);
        prop_assert_eq!(again, loaded.config);
    }

    #[test]
    fn no_text_makes_the_loader_panic(file in "[\\[\\]a-z._=\"0-9\n ]{0,60}", set in "\\PC{0,30}", value in "\\PC{0,12}") {
        let _ = load_with(&file, &[("REPRISE_CACHE__TTL", &value), ("REPRISE_PROVIDERS__0__NAME", &value)], &[&set]);
        let _ = load_with("", &[], &[&format!("providers.0.models={value}"), &format!("cache={value}")]);
    }

    #[test]
    fn a_mistyped_key_names_the_right_one(at in 0usize..14, drop in any::<bool>()) {
        let right = "min_similarity";
        let mut typed: Vec<char> = right.chars().collect();
        if drop { typed.remove(at); } else { typed.insert(at, 'x'); }
        let typed: String = typed.into_iter().collect();
        let message = refused("", &[], &[&format!("cache.{typed}=0.9")]);
        prop_assert!(message.contains("did you mean cache.min_similarity?"));
    }
}

#[test]
fn a_namespace_that_states_a_rate_does_not_inherit_a_similarity() {
    let file =
        "[cache]\nmin_similarity = 0.9\n[namespaces.a.cache]\nmax_wrong_rate = 0.02\n[namespaces.b.cache]\ntop_k = 3";
    let config = load(file, &[], &[]);
    let of = |namespace| (config.cache_of(namespace).min_similarity, config.cache_of(namespace).max_wrong_rate);
    assert_eq!((of("a"), of("b")), ((None, 0.02), (Some(0.9), 0.01)));
}

#[test]
fn shares_are_from_0_to_1() {
    for set in ["cache.max_wrong_rate=1.5", "cache.max_wrong_rate=-0.1", "cache.audit_share=2"] {
        let told = refused("", &[], &[set]);
        assert!(told.contains("share from 0 to 1"), "{told}");
    }
}
