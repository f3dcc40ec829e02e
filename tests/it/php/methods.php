<?php
// Calls every method and prints what came, as JSON: php methods.php PROTOCOL TRANSPORT bare|multiplexed ADDRESS
require __DIR__ . '/../../../examples/php/autoload.php';

use Roster\Thrift\ReadOptions;
use Roster\Thrift\RosterClient;
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
$transport = new $transport(new TSocket($address, 1));
$protocol = new $protocol($transport);
$service = fn (string $service) => $name === 'bare' ? $protocol : new TMultiplexedProtocol($protocol, $service);
$roster = new RosterClient($service('Roster'));
$any = new ReadOptions();

/** What an exception says of itself. */
function refusal(callable $call): mixed
{
    try {
        return $call();
    } catch (TApplicationException $e) {
        return $e->getCode();
    } catch (TException $e) {
        return [(new ReflectionClass($e))->getShortName(), $e->path ?? $e->field];
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
$node = $roster->get('/a/b', $any)->node;
$page = $roster->subtree('/a', 2, '', $any);
$rest = $roster->subtree('/a', 2, $page->cursor, $any);
$start = $roster->watch(0, [], 0, 0);
$status = $roster->status();
echo json_encode([
    'get' => [$node->path, $node->data, $node->stat->ephemeralOwner],
    'get bytes' => bin2hex($roster->get('/zk_test', $any)->node->data),
    'get nothing' => refusal(fn () => $roster->get('/a/d', $any)),
    'get nonsense' => refusal(fn () => $roster->get('a', $any)),
    'getMany' => array_map(fn ($node) => $node->data, $roster->getMany(['/a', '/a/b', '/a/d'], $any)->nodes),
    'children' => $roster->children('/a', $any)->names,
    'children of nothing' => refusal(fn () => $roster->children('/d', $any)),
    'subtree' => [$paths($page), $paths($rest)],
    'watch from the beginning' => $start->reset ? 'reset' : 'no reset',
    'watch in vain' => $roster->watch($start->freshness->revision, ['/a'], 10, 0)->changes,
    'status' => [$status->sources[0]->kind, $status->sources[0]->state, $status->sources[0]->nodes],
    'too many' => refusal(fn () => $roster->subtree('/a', -1, '', $any)),
    'unknown' => refusal(fn () => (new Stranger($service('Roster')))->ask()),
    'zkData' => bin2hex((new zkDataServiceClient($service('zkDataService')))->zkData()),
], JSON_THROW_ON_ERROR);
$transport->close();
