<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Call;
use Roster\ChangeKind;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoInstance;
use Roster\Exception\NoMaster;
use Roster\Exception\RosterException;
use Roster\Instance;
use Roster\Master;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;
use Roster\Transport;

/** Masters are known and called through a real sidecar: those that connect are real PHP processes. */
final class MastersTest extends TestCase
{
    private Roster $roster;
    private Client $client;
    /** @var list<Process> */
    private array $masters;

    protected function setUp(): void
    {
        $this->roster = new Roster(['/zk_test' => 'Hello'], hasRegister: true);
        $this->client = $this->client(Transport::Shared, Transport::Unix);
        $this->masters = [$this->roster->master(), $this->roster->master('spare@2.0.0')];
        $this->awaitInstances('demo', 2);
    }

    public function testInstancesAndMastersAreTheSameOverEachTransport(): void
    {
        [$shared, $unix] = [$this->client(Transport::Shared), $this->client(Transport::Unix)];
        foreach (['demo', 'spare', 'control', 'nobody/has it', str_repeat('x', 501)] as $service) {
            [$one, $other] = [$shared->instances($service), $unix->instances($service)];
            self::assertEquals(array_map(self::told(...), $other), array_map(self::told(...), $one));
        }
        $metadata = ['version' => '1.2.0', 'zone' => 'b', 'weight' => 3];
        self::assertSame($metadata, $shared->instances('demo')[0]->metadata);
        self::assertSame(['b', 3], [$shared->instances('demo')[0]->zone, $unix->instances('demo')[0]->weight]);
        self::assertSame(Transport::Shared, $shared->freshness()->from);
        foreach ($unix->masters() as $master) {
            self::assertEquals(self::told($master), self::told($shared->master($master->id)));
            self::assertEquals(self::told($master), self::told($unix->master($master->id)));
        }
        self::assertSame([null, null], [$shared->master('nobody'), $unix->master('nobody')]);
    }

    public function testInstancesAreFilteredAlikeOverEachTransport(): void
    {
        [$shared, $unix] = [$this->client(Transport::Shared), $this->client(Transport::Unix)];
        $all = fn (array ...$by) => array_map(static fn (array $it) => [
            count($shared->instances('demo', ...$it)),
            count($unix->instances('demo', ...$it)),
        ], $by);
        self::assertSame([[2, 2], [2, 2], [2, 2], [2, 2]], $all(
            ['zone' => 'b'],
            ['group' => ''],
            ['metadata' => ['weight' => 3, 'zone' => 'b']],
            ['zone' => 'b', 'group' => '', 'metadata' => ['version' => '1.2.0']],
        ));
        self::assertSame([[0, 0], [0, 0], [0, 0], [0, 0]], $all(
            ['zone' => 'c'],
            ['group' => 'blue'],
            ['metadata' => ['weight' => 3.5]],
            ['metadata' => ['no' => 'such']],
        ));
        self::assertSame(Transport::Shared, $shared->freshness()->from);
        $count = fn (mixed ...$by) => count($this->client->instances('demo', ...$by));
        self::assertSame([2, 0], [$count(version: '^1.2'), $count(version: '^2')]);
        self::assertSame([2, 0], [$count(callable: true, zone: 'b'), $count(callable: true, zone: 'c')]);
        self::assertSame(Transport::Unix, $this->client->freshness()->from);
        $this->expectException(InvalidRequest::class);
        $count(version: 'the newest');
    }

    public function testTheFileStillTellsOfMastersWhenTheSidecarIsKilled(): void
    {
        $ask = fn () => $this->client->instances('spare')[0] ?? null;
        Process::until(static fn () => $ask()?->freshness->from === Transport::Shared, 'the file tells of it', 30);
        $instance = $ask();
        self::assertSame(['2.0.0', 0], [$instance->version, $instance->freshness->ageMs]);
        $this->roster->end(SIGKILL);
        $left = fn () => $this->client->instances('spare')[0];
        Process::until(static fn () => $left()->freshness->ageMs > 3_000, 'the age grows', 30);
        self::assertSame($instance->masterId, $left()->masterId);
        self::assertSame($instance->masterId, $this->client->master($instance->masterId)->id);
        $attempts = $this->client->explain();
        self::assertSame([false, false, true], array_column($attempts, 'answered'));
        self::assertStringContainsString('its writer has been away for', (string) $attempts[0]);
        self::assertStringContainsString('cannot connect', (string) $attempts[1]);
    }

    public function testServicesAreCountedByVersion(): void
    {
        $services = $this->client->services();
        self::assertSame([['1.2.0' => 2], ['2.0.0' => 1]], [$services['demo'], $services['spare']]);
        self::assertSame(Transport::Unix, $this->client->freshness()->from);
    }

    public function testANameLikeANumberIsAName(): void
    {
        $master = $this->roster->master('7');
        $this->awaitInstances('7', 1);
        foreach ($this->client->services() as $name => $versions) {
            self::assertSame(array_sum($versions), count($this->client->instances($name)));
            self::assertNotSame([], $this->client->masters($name));
        }
        self::assertSame('7', $this->client->instances(7)[0]->serviceName);
        self::assertSame(['a'], $this->client->call(7, 'echo', ['a'])->value);
        self::assertSame('7', (new Call(7, 'echo'))->service);
    }

    public function testMetadataTellWhichMastersAreMeant(): void
    {
        $in = static fn (string $zone, int $weight = 3) => ['zone' => $zone, 'weight' => $weight];
        self::assertSame(['1.2.0' => 2], $this->client->services(metadata: $in('b'))['demo']);
        self::assertArrayNotHasKey('demo', $this->client->services(metadata: $in('c')));
        self::assertCount(2, $this->client->masters('demo', metadata: $in('b')));
        self::assertSame([], $this->client->masters('demo', metadata: $in('b', 4)));
        self::assertSame(['a'], $this->client->call('demo', 'echo', ['a'], metadata: $in('b'))->value);
        foreach ($this->client->masters('demo') as $number => $master) {
            $this->client->callOn($master->id, 'control', 'offer', ['zoned', ['zone' => $number, 'live' => true]]);
        }
        $this->awaitInstances('zoned', 2);
        foreach ($this->client->masters('demo') as $number => $master) {
            for ($i = 0; $i < 8; $i++) {
                $result = $this->client->call('zoned', 'echo', ['a'], metadata: ['zone' => $number, 'live' => true]);
                self::assertSame($master->id, $result->master);
            }
        }
        $this->expectException(NoMaster::class);
        $this->expectExceptionMessage('with weight=3, zone=c');
        $this->client->call('demo', 'echo', metadata: $in('c'));
    }

    public function testOneOfTheMastersIsResolvedByTheSidecar(): void
    {
        $resolved = $this->client->resolve('demo', key: 7);
        self::assertSame([null, Transport::Unix], [$resolved->host, $resolved->freshness->from]);
        self::assertContains($resolved->address(), array_column($this->client->masters('demo'), 'id'));
        for ($i = 0; $i < 8; $i++) {
            self::assertSame($resolved->masterId, $this->client->resolve('demo', key: '7')->masterId);
        }
        self::assertNotNull($this->client->resolve('demo', version: '^1', preferZone: 'c', subset: 1)->masterId);
        $this->expectException(NoInstance::class);
        $this->expectExceptionMessage('has a version that meets ^9');
        $this->client->resolve('demo', version: '^9');
    }

    public function testACallOnAMasterIsAnsweredByItAlone(): void
    {
        foreach ($this->client->masters('demo') as $master) {
            $result = $this->client->callOn($master->id, 'demo', 'values', allValues: true);
            self::assertSame([$master->id, [1, 'two', ['three' => 3]]], [$result->master, $result->values]);
        }
        $byKey = array_map(fn () => $this->client->call('demo', 'values', key: 7)->master, range(1, 20));
        self::assertCount(1, array_unique($byKey), 'a key needs no balance');
        $this->expectException(NoMaster::class);
        $this->client->callOn('nobody', 'demo', 'values');
    }

    public function testBytesAndNumbersAreTheSameAtTheMasterAndHere(): void
    {
        $odd = ["\xff\x00", 'é', PHP_INT_MIN, 0.1, INF, null, [], ['k' => ["\xfe"]]];
        self::assertSame($odd, $this->client->call('demo', 'echo', $odd)->value);
    }

    public function testCallsInOrderAreMadeOnOneMaster(): void
    {
        $calls = ['a' => new Call('demo', 'echo', [1]), 'b' => new Call('demo', 'nope'), 'c' => new Call('demo', 'echo', [2])];
        $outcomes = $this->client->callInOrder($calls);
        self::assertSame([[1], [2]], [$outcomes['a']->value(), $outcomes['c']->value()]);
        self::assertSame("Method 'nope' not found in service 'demo'", $outcomes['b']->error?->getMessage());
        self::assertCount(1, array_unique(array_map(static fn ($outcome) => $outcome->master, $outcomes)));
        $master = $this->client->masters('demo')[0]->id;
        self::assertSame($master, $this->client->callInOrder($calls, $master)['c']->master);
    }

    public function testAStreamGivesWhatAMasterGave(): void
    {
        $id = $this->client->masters('demo')[0]->id;
        $values = [1, 'two', ['three' => 3]];
        self::assertSame($values, iterator_to_array($this->client->stream('demo', 'values')));
        self::assertSame($values, iterator_to_array($this->client->stream('demo', 'laterValues', master: $id)));
    }

    public function testAllMastersAreCalled(): void
    {
        $ids = array_map(static fn (Master $master) => $master->id, $this->client->masters('demo'));
        $outcomes = $this->client->callAll('demo', 'pair', ['first' => 1, 'second' => 'ü']);
        self::assertEqualsCanonicalizing($ids, array_column($outcomes, 'master'));
        foreach ($outcomes as $outcome) {
            self::assertSame([[1, 'ü'], null], [$outcome->value(), $outcome->error]);
        }
        $this->expectException(NoMaster::class);
        $this->client->callAll('nobody', 'pair');
    }

    public function testSeveralCallsEachHaveAnOutcome(): void
    {
        $outcomes = $this->client->callMany([
            'pair' => new Call('demo', 'pair', [1, 2]),
            'broken' => new Call('demo', 'broken'),
            'nobody' => new Call('nobody', 'pair', idempotent: true),
            'values' => new Call('demo', 'values', allValues: true),
            'wrong' => new Call('demo', 'pair', [1, 2], version: 'the newest'),
        ]);
        self::assertSame([1, 2], $outcomes['pair']->value());
        self::assertSame([1, 'two', ['three' => 3]], $outcomes['values']->result->values);
        $error = $outcomes['broken']->error;
        self::assertInstanceOf(CallFailed::class, $error);
        self::assertSame(['midway', 9, 'DomainException'], [$error->getMessage(), $error->getCode(), $error->className]);
        self::assertInstanceOf(NoMaster::class, $outcomes['nobody']->error);
        self::assertInstanceOf(InvalidRequest::class, $outcomes['wrong']->error);
        self::assertSame([], $this->client->callMany([]));
        $this->expectExceptionObject($error);
        $outcomes['broken']->value();
    }

    public function testAWatchTellsWhichMastersComeAndGo(): void
    {
        $deadline = microtime(true) + 30;
        $watch = $this->client->watchMasters(waitMs: 200, until: static fn () => microtime(true) > $deadline);
        $known = [];
        $follow = static function (callable $until) use ($watch, &$known): void {
            for (; ; $watch->next()) {
                $change = $watch->current();
                match ($change->kind) {
                    ChangeKind::Deleted => $known = array_diff_key($known, [$change->id => 0]),
                    ChangeKind::Reset => $known = [],
                    default => $known[$change->id] = $change->master,
                };
                if ($until($known)) {
                    return;
                }
            }
        };
        $follow(static fn (array $known) => count($known) === 2);
        $this->masters[] = $this->roster->master('third');
        $follow(static fn (array $known) => in_array('third', self::offers($known), true));
        $this->masters[2]->end(SIGKILL);
        $follow(static fn (array $known) => !in_array('third', self::offers($known), true));
        self::assertCount(2, $known);
    }

    public function testAMethodIsSentValuesWhileItGivesOthers(): void
    {
        $numbers = static function (): \Generator {
            yield from [1, 2.5, "\xff"];
        };
        $given = $this->client->stream('demo', 'times', ['factor' => 4], input: $numbers());
        self::assertSame([4, 10.0, "\xff", '3 in all'], iterator_to_array($given, false));
        $given = $this->client->stream('demo', 'fussy', [true], input: ['one', 'two']);
        $this->expectException(CallFailed::class);
        $this->expectExceptionMessage('not two');
        iterator_to_array($given, false);
    }

    public function testWhatMastersSendOfTheirOwnAccordIsGivenAsItComes(): void
    {
        $deadline = microtime(true) + 30;
        $watch = $this->client->watchMessages(waitMs: 200, until: static fn () => microtime(true) > $deadline);
        $announce = fn (array $message) => $this->client->call('control', 'announce', [$message])->master;
        $master = $announce(['cmd' => 'first', 'bytes' => "\xff\x00"]);
        $first = $watch->current();
        self::assertSame([$master, ['cmd' => 'first', 'bytes' => "\xff\x00"], 0], [
            $first->master, $first->message, $first->missed,
        ]);
        $id = $this->client->callOn($master, 'control', 'announce', [['cmd' => 'second', 'n' => 2]])->master;
        $watch->next();
        self::assertSame([$id, ['cmd' => 'second', 'n' => 2]], [$watch->current()->master, $watch->current()->message]);
        for ($n = 0; $n < 300; $n++) {
            $this->client->callOn($master, 'control', 'announce', [['cmd' => 'many', 'n' => $n]]);
        }
        [$missed, $given] = [0, 0];
        do {
            $watch->next();
            $missed += $watch->current()->missed;
            $given += (int) ($watch->current()->master === $master);
        } while (($watch->current()->message['n'] ?? 0) < 299);
        self::assertSame(300, $missed + $given);
        self::assertGreaterThan(40, $missed, 'of one master 256 are kept');
    }

    /** @param array<Master> $masters */
    private static function offers(array $masters): array
    {
        $names = static fn (Master $master) => array_map(static fn ($service) => $service->name, $master->services);
        return array_merge(...array_values(array_map($names, $masters)));
    }

    /** Without what may differ. */
    private static function told(Instance|Master $told): array
    {
        return array_diff_key(get_object_vars($told), ['freshness' => 0]);
    }

    /** Waits until the sidecar and its file tell of so many. */
    private function awaitInstances(string $service, int $count): void
    {
        foreach ([Transport::Unix, Transport::Shared] as $transport) {
            $client = $this->client($transport);
            $areThere = fn () => count($this->instances($service, $client)) === $count;
            Process::until($areThere, "$count offer $service, by $transport->name", 30);
        }
    }

    private function instances(string $service, Client $client): array
    {
        try {
            return $client->instances($service, maxAge: 0);
        } catch (RosterException) {
            return [];
        }
    }

    private function client(Transport ...$transports): Client
    {
        return Patient::local(
            in_array(Transport::Unix, $transports, true) ? $this->roster->socket : '',
            '',
            in_array(Transport::Shared, $transports, true) ? $this->roster->shared : '',
        );
    }
}
