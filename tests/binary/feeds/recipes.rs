//! What the simulated feeds send and receive, a script for each recipe.

pub enum Step {
    /// the feed sends this
    Says(&'static str),
    /// the feed sends this, gzipped in a binary frame
    Packs(&'static str),
    /// the feed must receive this; JSON is compared as JSON
    Hears(&'static str),
    /// the feed must receive a text with this beginning
    HearsStart(&'static str),
}

use Step::{Hears, HearsStart, Packs, Says};

pub struct Recipe {
    pub name: &'static str,
    /// the path that must be requested
    pub path: &'static str,
    pub subprotocol: Option<&'static str>,
    pub script: &'static [Step],
    pub results: &'static [&'static str],
}

pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "binance",
        path: "/stream?streams=btcusdt@trade/ethusdt@trade",
        subprotocol: None,
        script: &[
            Says(
                r#"{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":7,"p":"64000.10","T":1700000000123}}"#,
            ),
            Says(
                r#"{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":7,"p":"64000.10","T":1700000000123}}"#,
            ),
            Says(
                r#"{"stream":"ethusdt@trade","data":{"e":"trade","s":"ETHUSDT","t":8,"p":"3000.5","T":1700000000124}}"#,
            ),
        ],
        results: &[r#"{"symbol":"BTCUSDT","price":64000.1}"#, r#"{"symbol":"ETHUSDT","price":3000.5}"#],
    },
    Recipe {
        name: "coinbase",
        path: "/",
        subprotocol: None,
        script: &[
            Hears(r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}"#),
            Says(r#"{"type":"subscriptions","channels":[]}"#),
            Says(
                r#"{"type":"match","product_id":"BTC-USD","sequence":50,"price":"64000.1","time":"2023-11-14T22:13:20.123456Z"}"#,
            ),
            Says(
                r#"{"type":"match","product_id":"BTC-USD","sequence":53,"price":"64000.2","time":"2023-11-14T22:13:21Z"}"#,
            ),
        ],
        results: &[
            r#"{"product_id":"BTC-USD","price":64000.1,"missing":0}"#,
            r#"{"product_id":"BTC-USD","price":64000.2,"missing":2}"#,
        ],
    },
    Recipe {
        name: "kraken",
        path: "/",
        subprotocol: None,
        script: &[
            Says(r#"{"event":"systemStatus","status":"online"}"#),
            Hears(r#"{"event":"subscribe","pair":["XBT/USD"],"subscription":{"name":"ticker"}}"#),
            Says(r#"{"event":"heartbeat"}"#),
            Says(r#"[340,{"c":["5541.2","0.1"]},"ticker","XBT/USD"]"#),
        ],
        results: &[r#"{"pair":"XBT/USD","price":5541.2}"#],
    },
    Recipe {
        name: "bitfinex",
        path: "/ws/2",
        subprotocol: None,
        script: &[
            Says(r#"{"event":"info","version":2}"#),
            Hears(r#"{"event":"subscribe","channel":"trades","symbol":"tBTCUSD"}"#),
            Says(r#"[17,[[401597393,1574694475039,0.005,7244.9],[401597392,1574694475030,0.01,7244.8]]]"#),
            Says(r#"[17,"hb"]"#),
            Says(r#"[17,"tu",[401597395,1574694478808,0.005,7245.3]]"#),
        ],
        results: &[r#"{"price":7245.3,"amount":0.005}"#],
    },
    Recipe {
        name: "okx",
        path: "/ws/v5/public",
        subprotocol: None,
        script: &[
            Hears(r#"{"op":"subscribe","args":[{"channel":"trades","instId":"BTC-USDT"}]}"#),
            Says(r#"{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}"#),
            Hears("ping"),
            Says("pong"),
            Says(r#"{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"px":"42219.9","ts":"1630048897897"}]}"#),
        ],
        results: &[r#"{"pair":"BTC-USDT","price":42219.9}"#],
    },
    Recipe {
        name: "huobi",
        path: "/ws",
        subprotocol: None,
        script: &[
            Hears(r#"{"sub":"market.btcusdt.trade.detail","id":"t1"}"#),
            Packs(r#"{"ping":1492420473027}"#),
            Hears(r#"{"pong":1492420473027}"#),
            Packs(r#"{"ch":"market.btcusdt.trade.detail","tick":{"data":[{"price":9.5}]}}"#),
        ],
        results: &[r#"{"price":9.5}"#],
    },
    Recipe {
        name: "homeassistant",
        path: "/api/websocket",
        subprotocol: None,
        script: &[
            Says(r#"{"type":"auth_required"}"#),
            Hears(r#"{"type":"auth","access_token":"a \"secret\""}"#),
            Says(r#"{"type":"auth_ok"}"#),
            Hears(r#"{"id":1,"type":"subscribe_events","event_type":"state_changed"}"#),
            Says(r#"{"id":1,"type":"result","success":true}"#),
            Says(
                r#"{"id":1,"type":"event","event":{"data":{"entity_id":"sensor.attic_temperature","new_state":{"state":"21.5","last_changed":"2023-11-14T22:13:20.1+00:00"}}}}"#,
            ),
        ],
        results: &[r#"{"entity":"sensor.attic_temperature","celsius":21.5}"#],
    },
    Recipe {
        name: "phoenix",
        path: "/socket/websocket?vsn=2.0.0",
        subprotocol: None,
        script: &[
            Hears(r#"["1","1","room:lobby","phx_join",{}]"#),
            Says(r#"["1","1","room:lobby","phx_reply",{"status":"ok","response":{}}]"#),
            HearsStart(r#"[null, "1"#),
            Says(r#"[null,null,"room:lobby","new_msg",{"body":"hello"}]"#),
        ],
        results: &[r#"{"topic":"room:lobby","body":"hello"}"#],
    },
    Recipe {
        name: "graphql",
        path: "/graphql",
        subprotocol: Some("graphql-transport-ws"),
        script: &[
            Hears(r#"{"type":"connection_init","payload":{}}"#),
            Hears(r#"{"id":"1","type":"subscribe","payload":{"query":"subscription { orderAdded { id total } }"}}"#),
            Says(r#"{"type":"connection_ack"}"#),
            Says(r#"{"type":"ping"}"#),
            Hears(r#"{"type":"pong"}"#),
            Says(r#"{"id":"1","type":"next","payload":{"data":{"orderAdded":{"id":"o1","total":12.5}}}}"#),
        ],
        results: &[r#"{"id":"o1","total":12.5}"#],
    },
    Recipe {
        name: "socketio",
        path: "/socket.io/?EIO=4&transport=websocket",
        subprotocol: None,
        script: &[
            Says(r#"0{"sid":"x","pingInterval":25000}"#),
            Hears("40"),
            Says(r#"40{"sid":"y"}"#),
            Says("2"),
            Hears("3"),
            Says(r#"42["trade",{"price":7.5}]"#),
        ],
        results: &[r#"{"event":"trade","price":7.5}"#],
    },
    Recipe {
        name: "ais",
        path: "/v0/stream",
        subprotocol: None,
        script: &[
            Hears(
                r#"{"APIKey":"key","BoundingBoxes":[[[-90,-180],[90,180]]],"FilterMessageTypes":["PositionReport"]}"#,
            ),
            Says(
                r#"{"MessageType":"PositionReport","MetaData":{"ShipName":"SLOW"},"Message":{"PositionReport":{"Sog":3.5}}}"#,
            ),
            Says(
                r#"{"MessageType":"PositionReport","MetaData":{"ShipName":"FAST"},"Message":{"PositionReport":{"Sog":28.5}}}"#,
            ),
        ],
        results: &[r#"{"ship":"FAST","knots":28.5}"#],
    },
    Recipe {
        name: "jetstream",
        path: "/subscribe?wantedCollections=app.bsky.feed.post",
        subprotocol: None,
        script: &[
            Says(r#"{"did":"did:plc:a","time_us":1725911162329308,"kind":"identity"}"#),
            Says(
                r#"{"did":"did:plc:b","time_us":1725911162329309,"kind":"commit","commit":{"operation":"create","record":{"text":"hi"}}}"#,
            ),
        ],
        results: &[r#"{"did":"did:plc:b","text":"hi"}"#],
    },
    Recipe {
        name: "jsonrpc",
        path: "/",
        subprotocol: None,
        script: &[
            Hears(r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#),
            Says(r#"{"jsonrpc":"2.0","id":1,"result":"0x9ce59a13059e417087c02d3236a0b1cc"}"#),
            Says(
                r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"result":{"number":"0x1b4","gasUsed":"0x5208"}}}"#,
            ),
        ],
        results: &[r#"{"number":436,"gas":21000}"#],
    },
    Recipe {
        name: "key",
        path: "/v1/positions",
        subprotocol: None,
        script: &[
            Hears(r#"{"op":"sub","lines":["S1","S3"]}"#),
            Hears("hb"),
            Says(
                "{\"t\":1760000000,\"d\":{\"line\":\"S1\",\"train\":\"12\",\"delay\":\"00:02:30\"}}\n{\"t\":1760000001,\"d\":{\"line\":\"S3\",\"train\":\"13\",\"delay\":\"00:00:00\"}}",
            ),
            Hears("hb"),
        ],
        results: &[r#"{"line":"S1","train":"12","delay":"00:02:30"}"#],
    },
    Recipe {
        name: "mirror",
        path: "/quotes",
        subprotocol: None,
        script: &[
            Says(r#"{"channel":"a","seq":1,"price":5.5}"#),
            Says(r#"{"channel":"b","seq":1,"price":7.5}"#),
            Says(r#"{"channel":"a","seq":1,"price":5.5}"#),
            Says(r#"{"channel":"a","seq":2,"price":5.75}"#),
        ],
        results: &[
            r#"{"channel":"a","seq":1,"price":5.5}"#,
            r#"{"channel":"b","seq":1,"price":7.5}"#,
            r#"{"channel":"a","seq":2,"price":5.75}"#,
        ],
    },
];
