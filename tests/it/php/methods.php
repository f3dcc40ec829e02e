<?php
// Calls every method and prints what came, as JSON: php methods.php PROTOCOL TRANSPORT bare|multiplexed ADDRESS
require __DIR__ . '/../../../examples/php/autoload.php';

use Roster\Thrift\ChildrenRequest;
use Roster\Thrift\GetManyRequest;
use Roster\Thrift\GetRequest;
use Roster\Thrift\RosterClient;
use Roster\Thrift\StatusRequest;
use Roster\Thrift\SubtreeRequest;
use Roster\Thrift\WatchRequest;
use Thrift\Exception\TApplicationException;
use Thrift\Exception\TException;
use Thrift\Protocol\TMultiplexedProtocol;
use Thrift\Transport\TSocket;
use tutorial\zkDataServiceClient;

[, $protocol, $transport, $name, $address] = $argv;
if ($protocol === 'TBinaryProtocolAccelerated' && !function_exists('thrift_protocol_read_binary')) {
    throw new Exception('run me with -d extension=thrift_protocol');
}
$protocol = "Thrift\\Protocol\\$protocol";
$transport = "Thrift\\Transport\\$transport";
$socket = new TSocket($address, 1);
// Of itself it waits 100 and 750 ms, which a busy machine may need.
$socket->setSendTimeout(20_000);
$socket->setRecvTimeout(20_000);
$transport = new $transport($socket);
$protocol = new $protocol($transport);
$service = fn (string $service) => $name === 'bare' ? $protocol : new TMultiplexedProtocol($protocol, $service);
$roster = new RosterClient($service('Roster'));
$get = fn (string $path) => $roster->get(new GetRequest(['path' => $path]))->node;
$children = fn (string $path) => $roster->children(new ChildrenRequest(['path' => $path]))->names;
$subtree = fn (int $limit, ?string $cursor = null) =>
    $roster->subtree(new SubtreeRequest(['path' => '/a', 'limit' => $limit, 'cursor' => $cursor]));
$many = new GetManyRequest(['paths' => ['/a', '/a/b', '/a/d']]);

/** What an exception says of itself. */
function refusal(callable $call): mixed
{
    try {
        return $call();
    } catch (TApplicationException $e) {
        return $e->getCode();
    } catch (TException $e) {
        return [(new ReflectionClass($e))->getShortName(), $e->name ?? $e->field];
    }
}

$paths = fn ($reply) => array_map(fn ($node) => $node->path, $reply->nodes);

/** A client of another interface. */
class Stranger extends RosterClient
{
    public function ask(): void
    {
        $this->output_->writeMessageBegin('nonsense', Thrift\Type\TMessageType::CALL, 0);
        (new Roster\Thrift\Roster_status_args())->write($this->output_);
        $this->output_->writeMessageEnd();
        $this->output_->getTransport()->flush();
        $this->recv_status();
    }
}

$transport->open();
$node = $get('/a/b');
$page = $subtree(2);
$rest = $subtree(2, $page->cursor);
$start = $roster->watch(new WatchRequest());
$later = new WatchRequest(['since' => $start->freshness->revision, 'paths' => ['/a'], 'timeoutMs' => 10]);
$status = $roster->status(new StatusRequest());
echo json_encode([
    'get' => [$node->path, $node->data, $node->stat->ephemeralOwner],
    'get bytes' => bin2hex($get('/zk_test')->data),
    'get nothing' => refusal(fn () => $get('/a/d')),
    'get nonsense' => refusal(fn () => $get('a')),
    'getMany' => array_map(fn ($node) => $node->data, $roster->getMany($many)->nodes),
    'children' => $children('/a'),
    'children of nothing' => refusal(fn () => $children('/d')),
    'subtree' => [$paths($page), $paths($rest)],
    'watch from the beginning' => $start->reset ? 'reset' : 'no reset',
    'watch in vain' => $roster->watch($later)->changes,
    'status' => [$status->sources[0]->kind, $status->sources[0]->state, $status->sources[0]->nodes],
    'too many' => refusal(fn () => $subtree(-1)),
    'unknown' => refusal(fn () => (new Stranger($service('Roster')))->ask()),
    'zkData' => bin2hex((new zkDataServiceClient($service('zkDataService')))->zkData()),
], JSON_THROW_ON_ERROR);
$transport->close();
