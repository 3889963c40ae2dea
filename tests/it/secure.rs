//! Kafka behind TLS: with a password, with a certificate, and what is said when either is wrong.

use std::time::Duration;

use crate::rig::{Kafka, Lake, Millpond, Project, wait_until};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_tls_is_read_with_a_password_or_a_certificate_and_says_what_is_wrong() {
    let kafka = Kafka::start_secure().await;
    let topic = kafka.topic("secure", 2).await;
    kafka.send_text(&topic, [r#"{"car":1}"#, r#"{"car":2}"#, r#"{"car":3}"#]);
    let [with_password, with_certificate] = kafka.secure_brokers();
    let file = |name: &str| kafka.certificate(name).to_str().unwrap().to_owned();
    let ca = format!("\"ssl.ca.location\" = \"{}\"\n", file("ca.pem"));
    let scram = |password: &str| {
        format!(
            "[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
             \"sasl.username\" = \"alice\"\n\"sasl.password\" = \"{password}\"\n{ca}"
        )
    };
    let mtls = |key: &str| format!("[kafka.properties]\n\"security.protocol\" = \"SSL\"\n{ca}{key}");
    let certificate = format!(
        "\"ssl.certificate.location\" = \"{}\"\n\"ssl.key.location\" = \"{}\"\n",
        file("client.pem"),
        file("client.key")
    );
    let project = |brokers: &str, properties: &str| {
        Project::new(brokers, Lake::Local).toml(properties).events("cars", &topic, "key = [\"car\"]")
    };
    for (brokers, properties) in [(&with_password, scram("secret")), (&with_certificate, mtls(&certificate))] {
        let millpond = Millpond::serve(&project(brokers, &properties)).await;
        wait_until("the rows are seen", SOON, async || {
            millpond.number("SELECT count(*) AS n FROM cars").await.filter(|count| *count == 3)
        })
        .await;
        assert_eq!(millpond.stop().await, Some(0));
    }
    let untrusted = "[kafka.properties]\n\"security.protocol\" = \"SSL\"\n".to_owned();
    for (brokers, properties, reason) in [
        (&with_password, scram("wrong"), "SASL authentication error"),
        (&with_certificate, mtls(""), "SSL"),
        (&with_certificate, untrusted, "SSL"),
    ] {
        let millpond = Millpond::start(&project(brokers, &properties));
        let said = wait_until("it says why it does not read", SOON, async || {
            let (status, reasons) = millpond.get("/readyz").await?;
            (status == 503 && reasons.contains(reason)).then_some(reasons)
        })
        .await;
        assert!(!said.contains("wrong") && !said.contains("secret"), "a password is told to nobody: {said}");
        assert!(!millpond.process().log().contains("secret"), "{}", millpond.process().log());
        millpond.kill();
    }
}
