//! Registrars: what nodes look like that register very many instances, in each format.

use roster::model::Format;

/// A format, the root, and the path and the data of the node with a number.
pub(super) type Registrar = (Format, &'static str, fn(usize) -> (String, String));

pub(super) const REGISTRARS: [Registrar; 14] = [
    (Format::Dubbo, "/dubbo", |n| {
        (format!("/dubbo/com.acme.Foo{}/providers/{}", n % 50, dubbo_url(n)), "10.0.0.5".into())
    }),
    (Format::DubboApplication, "/services", |n| {
        let payload = format!(
            r#"{{"@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"{0}","name":"shop","metadata":{{"dubbo.endpoints":"[{{\"port\":{1},\"protocol\":\"dubbo\"}}]","dubbo.metadata.revision":"af3","dubbo.metadata.storage-type":"local","timestamp":"1700000000000"}}}}"#,
            at(n),
            port(n)
        );
        (format!("/services/shop{}/{}", n % 50, at(n)), curator(n, &payload))
    }),
    (Format::Curator, "/base", |n| (format!("/base/db{}/id-{n}", n % 50), curator(n, "null"))),
    (Format::SpringCloud, "/services", |n| {
        let payload = r#"{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"app:8080","name":"app","metadata":{"instance_status":"UP"}}"#;
        (format!("/services/app{}/id-{n}", n % 50), curator(n, payload))
    }),
    (Format::Serverset, "/aurora", |n| {
        let at = |port: usize| format!(r#"{{"host":"{}","port":{port}}}"#, host(n));
        let data = format!(
            r#"{{"serviceEndpoint":{},"additionalEndpoints":{{"admin":{}}},"status":"ALIVE","shard":{n},"metadata":{{"k":"v"}}}}"#,
            at(port(n)),
            at(9_990)
        );
        (format!("/aurora/www/web{}/member_{n:010}", n % 50), data)
    }),
    (Format::Nerve, "/nerve", |n| {
        let data =
            format!(r#"{{"host":"{}","port":{},"name":"i-{n}","weight":7,"labels":{{"zone":"b"}}}}"#, host(n), port(n));
        (format!("/nerve/web{}/i-{n}_{n:010}", n % 50), data)
    }),
    (Format::Motan, "/motan", |n| {
        let url = format!("motan2://{}/com.acme.Foo?group=g&nodeType=service&refreshTimestamp=1700000000000&", at(n));
        (format!("/motan/g/com.acme.Foo{}/server/{}", n % 50, at(n)), url)
    }),
    (Format::Qconf, "/qconf", |n| (format!("/qconf/conf{}/{}", n % 50, at(n)), "0".into())),
    (Format::Codis, "/jodis", |n| {
        let data =
            format!(r#"{{"addr":"{}","token":"{n:032x}","start":"2026-11-27 03:12:00","state":"online"}}"#, at(n));
        (format!("/jodis/redis{}/proxy-{n:032x}", n % 50), data)
    }),
    (Format::Patroni, "/service", |n| {
        let data = format!(
            r#"{{"conn_url":"postgres://{}/postgres","api_url":"http://{}:8008/patroni","state":"running","role":"replica","version":"3.0.2","xlog_location":67108864,"timeline":1}}"#,
            at(n),
            host(n)
        );
        (format!("/service/pg{}/members/m-{n}", n % 50), data)
    }),
    (Format::Kafka, "/brokers", |n| {
        let data = format!(
            r#"{{"listener_security_protocol_map":{{"PLAINTEXT":"PLAINTEXT"}},"endpoints":["PLAINTEXT://{0}"],"jmx_port":-1,"features":{{}},"host":"{1}","timestamp":"1","port":{2},"version":5,"rack":"r1"}}"#,
            at(n),
            host(n),
            port(n)
        );
        (format!("/brokers/ids/{n}"), data)
    }),
    (Format::HiveServer2, "/hive", |n| {
        (format!("/hive/serverUri={};version=3.1.2;sequence={n:010}", at(n)), String::new())
    }),
    (Format::SofaRpc, "/sofa-rpc", |n| {
        let url =
            format!("bolt%3A%2F%2F{}%3A{}%3Fversion%3D1.0%26weight%3D100%26serialization%3Dhessian2", host(n), port(n));
        (format!("/sofa-rpc/com.acme.Foo{}/providers/{url}", n % 50), String::new())
    }),
    (Format::Raw, "/raw", |n| (format!("/raw/web{}/i-{n}", n % 50), at(n))),
];

fn host(n: usize) -> String {
    format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255)
}

fn port(n: usize) -> usize {
    1_024 + n % 60_000
}

fn at(n: usize) -> String {
    format!("{}:{}", host(n), port(n))
}

fn dubbo_url(n: usize) -> String {
    format!(
        "dubbo%3A%2F%2F{}%3A{}%2Fcom.acme.Foo%3Fanyhost%3Dtrue%26application%3Dshop%26deprecated%3Dfalse%26dubbo%3D2.0.2\
         %26dynamic%3Dtrue%26generic%3Dfalse%26interface%3Dcom.acme.Foo%26methods%3Dfind%2Cfetch%2Cstore%26pid%3D4711\
         %26release%3D3.2.4%26service-name-mapping%3Dtrue%26side%3Dprovider%26timestamp%3D1700000000000",
        host(n),
        port(n)
    )
}

fn curator(n: usize, payload: &str) -> String {
    format!(
        r#"{{"name":"db","id":"id-{n}","address":"{}","port":{},"sslPort":null,"payload":{payload},"registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC","uriSpec":{{"parts":[{{"value":"scheme","variable":true}},{{"value":"://","variable":false}},{{"value":"address","variable":true}},{{"value":":","variable":false}},{{"value":"port","variable":true}}]}}}}"#,
        host(n),
        port(n)
    )
}
