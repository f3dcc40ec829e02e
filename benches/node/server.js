// The sidecar of the article, made again in Node.js: a child watches one coordination node, the parent answers zkData().
'use strict';

const [, , zookeeper, path, socket, port] = process.argv;

if (process.send) {
    watch(require('node-zookeeper-client'));
} else {
    answer(require('thrift'), require('./gen-nodejs/zkDataService'));
}

function watch(library) {
    const client = library.createClient(zookeeper);
    const read = () => client.getData(path, read, (error, data) => {
        if (error) throw error;
        process.send(data.toString());
    });
    client.once('connected', read);
    client.connect();
    process.on('disconnect', () => process.exit());
}

function answer(thrift, service) {
    let known;
    const handler = { zkData: (reply) => reply(null, known) };
    const listen = () => [socket, Number(port)].forEach((place) => {
        thrift.createServer(service, handler, { transport: thrift.TBufferedTransport, protocol: thrift.TBinaryProtocol })
            .listen(...(typeof place === 'number' ? [place, '127.0.0.1'] : [place]));
    });
    const child = require('child_process').fork(__filename, process.argv.slice(2));
    child.on('message', (data) => {
        const isFirst = known === undefined;
        known = data;
        if (isFirst) listen();
    });
    child.on('exit', () => process.exit(1));
}
