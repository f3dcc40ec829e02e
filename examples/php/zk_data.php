<?php
// A client of `service zkDataService { string zkData() }`, which works as it is: php zk_data.php [PORT]
require __DIR__ . '/autoload.php';

use Thrift\Exception\TException;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Transport\TBufferedTransport;
use Thrift\Transport\TSocket;

$socket = new TSocket('127.0.0.1', (int) ($argv[1] ?? 9090));
$transport = new TBufferedTransport($socket, 1024, 1024);
$protocol = new TBinaryProtocol($transport);
$client = new \tutorial\zkDataServiceClient($protocol);

try {
    $transport->open();
    echo $client->zkData();
    $transport->close();
} catch (TException $failure) {
    fwrite(STDERR, "{$failure->getMessage()}\n");
    exit(1);
}
