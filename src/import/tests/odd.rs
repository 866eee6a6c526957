//! Manifests with values that make no sense, or that stand twice.

use super::*;

/// A deployment with three replicas, of which a part of the text is another one.
fn odd(from: &str, to: &str) -> Result<Imported, ImportError> {
    let text = "kind: Deployment\nmetadata: {name: llm}\nspec:\n  replicas: 3\n  template:\n    spec:\n      \
                containers:\n      - image: vllm/vllm-openai:v0.12.0\n        args: [--model, Qwen/Qwen3-32B, -tp, \"2\"]\n";
    assert!(text.contains(from));
    import(&of_text("a.yaml", &text.replace(from, to)))
}

#[test]
fn counts_that_are_none_are_refused() {
    assert!(odd("replicas: 3", "replicas: 3").unwrap().read[0].starts_with("3 workers"));
    assert!(odd("replicas: 3", "replicas: null").unwrap().read[0].starts_with("1 worker"));
    for (given, shown) in [
        ("-1", "-1"),
        ("8.5", "8.5"),
        ("99999999999", "99999999999"),
        (".nan", "\".nan\""),
        ("[3]", "[3]"),
        ("many", "\"many\""),
    ] {
        let error = odd("replicas: 3", &format!("replicas: {given}")).unwrap_err().to_string();
        let expected =
            format!("llm: replicas: {shown}: must be a whole number from 0 to 4294967295");
        assert_eq!(error, expected);
    }
    let values = "inferenceExtension:\n  replicas: 2\n  pluginsCustomConfig:\n    p.yaml: |\n      \
                  apiVersion: inference.networking.x-k8s.io/v1alpha1\n      kind: EndpointPickerConfig\n      \
                  plugins:\n      - type: queue-scorer\n      - type: max-score-picker\n      schedulingProfiles:\n      \
                  - name: default\n        plugins:\n        - pluginRef: queue-scorer\n        - pluginRef: max-score-picker\n";
    let mut both = of_text("values.yaml", values);
    let line = "vllm serve Qwen/Qwen3-32B -tp 2";
    both.command = Some(line.to_owned());
    assert!(import(&both).unwrap().read[1].ends_with("replicas = 2"));
    both.files[0].text = values.replace("replicas: 2", "replicas: two");
    let error = import(&both).unwrap_err().to_string();
    assert!(
        error.contains("inferenceExtension.replicas: \"two\": must be a whole number"),
        "{error}"
    );
    // What leaves a length to vLLM leaves no other number to it.
    for flag in ["--max-num-seqs", "--gpu-memory-utilization"] {
        let error = import(&of_line(&format!("{line} {flag} -1"))).unwrap_err().to_string();
        assert!(error.contains(&format!("{flag} -1: must be a")), "{error}");
    }
    assert!(import(&of_line(&format!("{line} --max-model-len -1"))).is_ok());
}

#[test]
fn variables_that_are_given_twice_are_listed() {
    let env = "-tp, $(TP)]\n        env:\n        - {name: TP, value: \"2\"}\n        \
               - {name: TP, value: \"4\"}\n        - {name: SAME, value: a}\n        - {name: SAME, value: a}";
    let imported = odd("-tp, \"2\"]", env).unwrap();
    assert!(imported.read[0].contains("4 h200 each"), "as for Kubernetes, the last one wins");
    let unused = imported.unused.join("\n");
    assert!(
        unused.contains("llm: variable TP, given before: overridden by another value"),
        "{unused}"
    );
    assert!(!unused.contains("variable SAME, given before"), "{unused}");
}

#[test]
fn aliases_and_merges_are_read_as_kubectl_reads_them() {
    let plain = odd("replicas: 3", "replicas: 3").unwrap().experiment;
    let merged = odd("spec:\n  replicas: 3", "x: &all {replicas: 3}\nspec:\n  <<: *all").unwrap();
    assert_eq!(merged.read[0].split(':').next(), Some("3 workers, 2 h200 each"));
    assert!(merged.unused.iter().any(|line| line.contains("x: unknown here")), "{merged:?}");
    let aliased = odd("replicas: 3", "replicas: &n 3\n  minReadySeconds: *n").unwrap();
    let keys = |text: &str| deployed(text).expect("TOML");
    assert_eq!(keys(&aliased.experiment), keys(&plain));
}

#[test]
fn words_of_a_front_end_that_start_nothing_are_listed() {
    let text = "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nmetadata: {name: g}\nspec:\n  services:\n    \
                Frontend:\n      componentType: frontend\n      extraPodSpec: {mainContainer: {args: [--router-mode, kv, --api-key, secret]}}\n    \
                Worker:\n      componentType: worker\n      extraPodSpec:\n        mainContainer: {command: [python3, -m, dynamo.vllm], args: [--model, Qwen/Qwen3-32B, -tp, \"2\"]}\n";
    let imported = import(&of_text("g.yaml", text)).unwrap();
    let unused = imported.unused.join("\n");
    let wanted = "--router-mode kv --api-key (value left out): it does not say that it starts dynamo.frontend";
    assert!(unused.contains(wanted), "{unused}");
    assert!(imported.read[1].contains("round_robin"));
}
