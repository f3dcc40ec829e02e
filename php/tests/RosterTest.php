<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\ChangeKind;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoMaster;
use Roster\Exception\NotReady;
use Roster\Exception\RosterException;
use Roster\Exception\Unavailable;
use Roster\Node;
use Roster\Origin;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;
use Roster\Tests\Support\Skip;
use Roster\Timeouts;
use Roster\Transport;

/** The package and a real sidecar understand each other. */
final class RosterTest extends TestCase
{
    private Roster $roster;

    protected function setUp(): void
    {
        $this->roster = new Roster(['/zk_test' => 'Hello', '/services/mail/mail-1' => '{"port": 2525}', '/ü' => 'ö']);
    }

    /** @dataProvider transports */
    public function testNodesAndChildrenAreReadOverEachTransport(Transport $transport): void
    {
        $client = $this->client($transport);
        $node = $client->get('/services/mail/mail-1');
        self::assertSame(['port' => 2525], $node->json());
        self::assertSame([0, true, Origin::Live, $transport], [
            $node->freshness->ageMs, $node->freshness->complete, $node->freshness->origin, $node->freshness->from,
        ]);
        self::assertSame(['services', 'zk_test', 'ü'], $client->children('/'));
        self::assertSame([[], null], [$client->children('/zk_test'), $client->children('/none')]);
        $both = $client->getMany(['/zk_test', '/none', '/ü'], maxAge: 0);
        self::assertEqualsCanonicalizing(['/zk_test', '/ü'], array_keys($both));
        self::assertSame($both['/zk_test']->freshness->revision, $client->freshness()->revision);
        self::assertNull($client->get('/none'));
    }

    public static function transports(): array
    {
        return array_map(static fn (Transport $transport) => [$transport], Transport::cases());
    }

    public function testAllWaysTellTheSame(): void
    {
        if (!Roster::hasShared()) {
            Skip::because('this sidecar keeps no shared file');
        }
        [$shared, $unix] = [$this->client(Transport::Shared), $this->client(Transport::Unix)];
        foreach (['/', '/zk_test', '/services', '/services/mail/mail-1', '/none'] as $path) {
            [$one, $other] = [$shared->get($path), $unix->get($path)];
            self::assertSame([$one?->path, $one?->data], [$other?->path, $other?->data]);
            self::assertEquals($one?->stat, $other?->stat);
            self::assertSame($shared->children($path), $unix->children($path));
            self::assertSame(self::json($one), str_replace('"unix"', '"shared"', self::json($other)));
        }
    }

    private static function json(?Node $node): string
    {
        $text = json_encode($node, JSON_THROW_ON_ERROR);
        self::assertSame($node === null, !str_contains($text, 'ephemeralOwner'));
        return $text;
    }

    public function testMoreThanARequestOrAReplyHoldsIsReadOverEachTransport(): void
    {
        $name = static fn (int $number) => sprintf('%06d', $number) . str_repeat('x', 200);
        $names = array_map($name, range(1, 12_000));
        $nodes = array_fill_keys(array_map(static fn (string $name) => "/many/$name", $names), '');
        $large = array_map(static fn (int $number) => "/large/$number", range(1, 24));
        $this->roster = new Roster($nodes + array_fill_keys($large, str_repeat('y', 100_000)));
        foreach (Roster::hasShared() ? Transport::cases() : [Transport::Unix, Transport::Tcp] as $transport) {
            $client = $this->client($transport, new Timeouts(connectMs: 10_000, readMs: 10_000, totalMs: 60_000));
            self::assertSame($names, $client->children('/many'));
            self::assertNull($client->children('/none'));
            $some = array_slice(array_keys($nodes), 0, 3_000);
            $found = $client->getMany([...$some, '/none']);
            self::assertSame($some, array_keys($found));
            self::assertSame($found[$some[0]]->freshness, $found[$some[2_999]]->freshness);
            self::assertCount(24, $client->getMany($large));
        }
    }

    public function testTheFileAnswersWithItsAgeWhenTheSidecarIsKilled(): void
    {
        if (!Roster::hasShared()) {
            Skip::because('this sidecar keeps no shared file');
        }
        $client = Patient::local($this->roster->socket, $this->roster->tcp, $this->roster->shared);
        self::assertSame(Transport::Shared, $client->get('/zk_test')->freshness->from);
        $this->roster->end(SIGKILL);
        $aged = static fn () => $client->get('/zk_test')->freshness->ageMs > 3_000;
        Process::until($aged, 'the age grows');
        self::assertSame('Hello', $client->get('/zk_test')->data);
        self::assertSame([false, false, true, null], array_column($client->explain(), 'answered'));
        $this->roster->start();
        Process::until(static fn () => !$aged(), 'it is fresh again');
    }

    public function testTheStatusIsTold(): void
    {
        $status = $this->client(Transport::Unix)->status();
        self::assertSame(['file', 'live', ['/'], ['nodes']], [
            $status->sources[0]->kind, $status->sources[0]->state, $status->sources[0]->roots,
            $status->sources[0]->supplies,
        ]);
        self::assertArrayHasKey('requests', $status->counters);
        self::assertArrayHasKey('maxReplyBytes', $status->limits);
        self::assertSame(Transport::Unix, $status->freshness->from);
    }

    public function testAWatchTellsEveryChangeAlsoAcrossARestart(): void
    {
        $watch = $this->client(Transport::Unix)->watch('/zk_test', waitMs: 200);
        self::assertSame([ChangeKind::Present, 'Hello'], [$watch->current()->kind, $watch->current()->node->data]);
        $this->roster->set(['/zk_test' => 'edited']);
        $watch->next();
        self::assertSame([ChangeKind::Changed, 'edited'], [$watch->current()->kind, $watch->current()->node->data]);
        $this->roster->end(SIGKILL);
        $this->roster->set(['/zk_test' => 'edited while it was away']);
        $this->roster->start();
        do {
            $watch->next();
            $change = $watch->current();
        } while ($change->node?->data !== 'edited while it was away');
        self::assertContains($change->kind, [ChangeKind::Present, ChangeKind::Changed]);
    }

    public function testWhatTheSidecarRefusesIsRefused(): void
    {
        $this->expectException(InvalidRequest::class);
        $this->client(Transport::Unix)->watch('/a', waitMs: -1)->valid();
    }

    public function testARequestThatIsTooLongSaysSo(): void
    {
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('the message is longer than max_request allows');
        $this->client(Transport::Unix)->getMany(['/' . str_repeat('x', 100_000)]);
    }

    public function testACallWithoutAMasterSaysSo(): void
    {
        try {
            $this->client(Transport::Unix)->call('users', 'find', ['id' => 7]);
            self::fail('somebody answered');
        } catch (NoMaster | NotReady | Unavailable $refusal) {
            self::assertInstanceOf(RosterException::class, $refusal);
        }
    }

    private function client(Transport $transport, ?Timeouts $timeouts = null): Client
    {
        if ($transport === Transport::Shared && !Roster::hasShared()) {
            Skip::because('this sidecar keeps no shared file');
        }
        return Client::local(
            $transport === Transport::Unix ? $this->roster->socket : '',
            $transport === Transport::Tcp ? $this->roster->tcp : '',
            $transport === Transport::Shared ? $this->roster->shared : '',
            timeouts: $timeouts ?? Patient::timeouts(),
        );
    }
}
