<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\ChangeKind;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\InvalidRequest;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;
use Roster\WorkerAnswer;
use Roster\WorkerOutcome;

/** Workers that a real sidecar keeps alive are listed, watched and commanded by a client. */
final class WorkersTest extends TestCase
{
    private Roster $roster;
    private Client $client;

    protected function setUp(): void
    {
        $command = json_encode([PHP_BINARY, __DIR__ . '/Support/worker.php'], JSON_UNESCAPED_SLASHES);
        $group = static fn (string $name, int $count) =>
            "[[worker]]\nname = '$name'\ncommand = $command\ncount = $count\nready = 'message'\n";
        $this->roster = new Roster(['/a' => 'b'], hasRegister: true, tables: $group('web', 2) . $group('mail', 1));
        $this->client = Patient::local($this->roster->socket, '', '');
        $answer = fn () => array_filter($this->client->commandWorkers('ping'), self::hasAnswered(...));
        Process::until(static fn () => count($answer()) === 3, 'all answer', 30);
        $running = fn () => array_filter($this->client->workers(), static fn ($report) => $report->state === 'RUNNING');
        Process::until(static fn () => count($running()) === 3, 'all are known to be ready', 30);
    }

    public function testEachAnswersInItsPlaceAndOneThatIsStoppedCostsItsOwn(): void
    {
        $stopped = $this->client->commandWorkers('status', worker: 'web/1')[0]->value()['pid'];
        posix_kill($stopped, SIGSTOP);
        $answers = $this->client->commandWorkers('reverse', "\xffab", timeoutMs: 3_000);
        posix_kill($stopped, SIGCONT);
        self::assertSame(['web/1', 'web/2', 'mail/1'], array_column($answers, 'worker'));
        self::assertSame([null, "ba\xff", "ba\xff"], array_column($answers, 'value'));
        self::assertSame('it did not answer within 3s', $answers[0]->error->getMessage());
        $this->expectException(CallFailed::class);
        $answers[0]->value();
    }

    public function testWhatACommandThrowsIsItsOwnErrorAndOfManyValuesTheLastIsGiven(): void
    {
        [$one, $other] = $this->client->commandWorkers('refuse', worker: 'web');
        self::assertSame(['web/1', 'web/2'], [$one->worker, $other->worker]);
        self::assertSame(['not now', 'DomainException'], [$one->error->getMessage(), $one->error->className]);
        self::assertSame(7, $this->client->commandWorkers('count', 7, 'mail')[0]->value());
        self::assertStringContainsString('nope', $this->client->commandWorkers('nope', worker: 'mail')[0]->error->getMessage());
    }

    public function testTheyAreListedWithWhatTheyTakeAndDo(): void
    {
        $reports = $this->client->workers(usage: true);
        self::assertSame(['web/1', 'web/2', 'mail/1'], array_column($reports, 'name'));
        self::assertSame(['RUNNING', 'web', 1, 0], [
            $reports[0]->state, $reports[0]->group, $reports[0]->number, $reports[0]->calls,
        ]);
        self::assertGreaterThan(1_000_000, $reports[0]->memoryBytes);
        self::assertNull($this->client->workers('mail')[0]->memoryBytes);
        self::assertCount(1, $this->client->workers('web/2'));
    }

    public function testAWatchTellsOfWhatBecomesOfThem(): void
    {
        $changes = $this->client->watchWorkers(1_000);
        $present = [];
        foreach ([1, 2, 3] as $_) {
            $present[$changes->current()->worker] = $changes->current()->kind;
            $changes->next();
            count($present) === 2 && $this->roster->command('worker', 'stop', 'mail');
        }
        self::assertSame(['mail/1', 'web/1', 'web/2'], self::sorted(array_keys($present)));
        self::assertSame([ChangeKind::Present], array_values(array_unique($present, SORT_REGULAR)));
        while ($changes->current()->report?->state !== 'STOPPED') {
            $changes->next();
        }
        $last = $changes->current();
        self::assertSame([ChangeKind::Changed, 'mail/1', null], [$last->kind, $last->worker, $last->report->pid]);
    }

    private static function sorted(array $names): array
    {
        sort($names);
        return $names;
    }

    /** @dataProvider nobody */
    public function testWhoIsNotThereIsAWrongRequest(string $worker, string $why): void
    {
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage($why);
        $this->client->commandWorkers('ping', worker: $worker);
    }

    public static function nobody(): array
    {
        return [
            ['webb', 'there are web, mail'], ['web/3', 'has the numbers 1 to 2'], ['', 'is neither a group'],
            ['web/x', 'is neither a group'], ['web/0', 'is neither a group'],
        ];
    }

    public function testOneIsAddedAndRemovedAndWhatIsWrongIsToldWithItsKey(): void
    {
        $outcomes = $this->client->addWorker('sleepy', ['sleep', '1000'], ['count' => 2, 'ready_after' => '10ms']);
        self::assertEquals([new WorkerOutcome('sleepy/1', null), new WorkerOutcome('sleepy/2', null)], $outcomes);
        self::assertSame('RUNNING', $this->client->workers('sleepy/2')[0]->state);
        foreach ([
            ['sleepy', [], 'there is a worker "sleepy" already'],
            ['other', ['count' => 0], 'count: 0 is no number of processes'],
            ['other', ['directory' => 'relative'], 'directory: "relative" is relative'],
            ['other', ['params' => NAN], 'they are no JSON'],
        ] as [$name, $settings, $why]) {
            try {
                $this->client->addWorker($name, ['sleep', '1000'], $settings);
                self::fail("$name was added");
            } catch (InvalidRequest $error) {
                self::assertStringContainsString($why, $error->getMessage());
            }
        }
        self::assertCount(2, $this->client->removeWorker('sleepy'));
        $this->expectExceptionMessage('there is no worker `sleepy`; there are web, mail');
        $this->client->removeWorker('sleepy');
    }

    private static function hasAnswered(WorkerAnswer $answer): bool
    {
        return $answer->error === null;
    }
}
